"use strict";
(() => {
  const root = document.documentElement;
  const stored = () => { try { return localStorage.getItem("avrt-theme") || ""; } catch { return ""; } };
  const store = (theme) => { try { localStorage.setItem("avrt-theme", theme); } catch { /* a file may have no storage */ } };
  const paint = (theme) => { if (theme) root.dataset.theme = theme; else delete root.dataset.theme; };
  paint(stored());

  function themes() {
    const group = document.querySelector(".theme");
    const buttons = [...group.querySelectorAll("button")];
    const show = (theme) => {
      paint(theme);
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.theme === theme));
    };
    for (const button of buttons) button.addEventListener("click", () => { store(button.dataset.theme); show(button.dataset.theme); });
    show(stored());
    group.hidden = false;
  }

  function filter(form) {
    const cards = [...document.querySelectorAll("#" + form.dataset.cards + " .card")];
    const texts = cards.map((card) => card.textContent.toLowerCase());
    const output = form.querySelector("output");
    const collapsed = new Map();
    for (const card of cards) for (const part of card.querySelectorAll("details[data-mask]")) collapsed.set(part, part.open);

    function apply() {
      const wanted = Object.fromEntries(new FormData(form));
      const text = wanted.text.trim().toLowerCase();
      let shown = 0;
      cards.forEach((card, i) => {
        let fits = !text || texts[i].includes(text);
        for (const name of ["benchmark", "type", "status", "category", "difficulty"])
          if (wanted[name] && card.dataset[name] !== wanted[name]) fits = false;
        let answered = false;
        for (const part of card.querySelectorAll("[data-mask]")) {
          const ofMask = !wanted.mask || part.dataset.mask === wanted.mask;
          part.hidden = !ofMask;
          if (collapsed.has(part)) part.open = wanted.mask && ofMask ? true : collapsed.get(part);
          for (const answer of ofMask ? part.querySelectorAll("[data-verdict]") : [])
            if (!wanted.verdict || answer.dataset.verdict === wanted.verdict) answered = true;
        }
        if ((wanted.mask || wanted.verdict) && !answered) fits = false;
        card.hidden = !fits;
        shown += fits ? 1 : 0;
      });
      output.textContent = shown + " of " + cards.length + " shown";
    }

    form.addEventListener("input", apply);
    form.addEventListener("change", apply);
    form.addEventListener("reset", () => setTimeout(apply));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    apply();
  }

  document.addEventListener("DOMContentLoaded", () => {
    themes();
    document.querySelectorAll("form.filters").forEach(filter);
    const contents = document.querySelector(".contents");
    const narrow = matchMedia("(max-width: 62rem)");
    const fold = () => { contents.open = !narrow.matches; };
    narrow.addEventListener("change", fold);
    fold();
    const collapsed = [];
    addEventListener("beforeprint", () => {
      for (const part of document.querySelectorAll("main details:not([open])")) { part.open = true; collapsed.push(part); }
    });
    addEventListener("afterprint", () => { for (const part of collapsed.splice(0)) part.open = false; });
  });
})();
