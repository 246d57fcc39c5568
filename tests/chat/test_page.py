"""The page of `avrt chat` in a real browser: the real command, real clips, shipped students."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from avrt.commands import chat
from avrt.data_recipes.nano_world import Scene, render
from avrt.errors import AvrtError
from tests.conftest import avrt

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
QUESTION = "Which option matches the clip?"
CHOICES = [
    "white ring with low hum",
    "red ball with low hum",
    "red ball with steady hiss",
    "white ring with steady hiss",
]
needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver")


class Command:
    """`avrt chat` in a process of its own."""

    def __init__(self, folder, *models):
        self.log = folder / "chat.log"
        environment = {**os.environ, "TMPDIR": str(folder)}
        command = [sys.executable, "-m", "avrt", "chat", *models, "--device", "cpu"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    @property
    def address(self):
        """Where the page is, as soon as it is there."""
        for _ in range(600):
            if found := re.search(r"^page: (http://127\.0\.0\.1:\d+/)\nnext: ", self.log.read_text(), re.MULTILINE):
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The command with one student, and with two."""
    folder = tmp_path_factory.mktemp("chat")
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    one = Command(folder / "one", "nano/student")
    two = Command(folder / "two", "nano/student", "nano/teachers/visual")
    yield one, two
    for command in (one, two):
        command.process.kill()
        command.process.wait()


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--window-size=1280,1600",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


class Page:
    """The page as somebody uses it."""

    def __init__(self, browser, command):
        self.browser = browser
        browser.get(command.address)
        self.all("#ask", 1)

    def all(self, selector, least=1, seconds=30):
        """The elements of a selector, once there are so many."""
        end = time.monotonic() + seconds
        while len(found := self.browser.find_elements("css selector", selector)) < least:
            assert time.monotonic() < end, f"{selector}\n{self.browser.find_element('tag name', 'body').text}"
            time.sleep(0.05)
        return found

    def drop(self, file):
        self.browser.find_element("css selector", "#clip input[type=file]").send_keys(str(file))

    def type(self, selector, text):
        [field] = self.all(f"{selector} textarea, {selector} input", 1)
        field.clear()
        field.send_keys(text)

    def ask(self, answers=1):
        """Click, and wait for so many answers: (student, senses) -> the letter, the text, the raw response, where."""
        # Answers of an earlier click are still there.
        self.browser.execute_script("document.querySelectorAll('.answer').forEach(a => a.remove())")
        self.all("#ask")[0].click()
        cards = self.all(".answer:has(.choice)", answers)
        found = {}
        for card in cards:
            self.browser.execute_script("arguments[0].querySelector('details').open = true", card)
            letters = [part.text for part in card.find_elements("css selector", ".choice strong")]
            found[card.get_attribute("data-student"), card.get_attribute("data-senses")] = (
                letters[0] if letters else None,
                card.text,
                card.find_element("css selector", "pre").get_attribute("textContent"),
                card.rect,
            )
        return found

    def tick(self, *labels):
        """Tick these boxes of senses too."""
        for label in self.all("#senses label"):
            box = label.find_element("css selector", "input")
            if label.text in labels and not box.is_selected():
                label.click()

    def alert(self):
        """The sentence about what went wrong."""
        return self.all("[role=alert]", 1)[0].text


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "ball & hum.mp4"
    render(Scene("red ball", "low hum", (5, 1, 2)), path)
    return path


@needs_browser
def test_a_clip_is_asked_about_as_predict_does_and_with_its_senses_masked(browser, commands, clip, tmp_path):
    avrt(
        "predict", "--config", "sft.yaml", "--config", "nano/sft.yaml", "--model.student.source", "nano/student",
        "--data.ask.clip", clip, "--data.ask.question", QUESTION, "--data.ask.choices", json.dumps(CHOICES),
        "--data.ask.spec.budget.min_pixels", 3136, "--data.ask.spec.budget.max_pixels", 3136,
        "--trainer.default_root_dir", tmp_path, "--trainer.logger", "false", "--trainer.strategy", "auto",
    )  # fmt: skip
    [line] = (tmp_path / "predictions.jsonl").read_text().splitlines()
    page = Page(browser, commands[0])
    page.drop(clip)
    frames = page.all("#got img", 8)
    page.type("#question", QUESTION)
    page.type("#options", "\n".join(CHOICES))
    page.tick("Without sound", "Without pictures")
    answers = page.ask(3)
    letter, text, raw, _ = answers["nano/student", "both"]
    assert [raw] == json.loads(line)["responses"]
    assert letter == "B"
    assert "red ball with low hum" in text
    reasoning = text.partition("Reasoning\n")[2].partition("\nRaw response")[0]
    assert "The frames show a red ball. " in reasoning
    assert "<" not in reasoning
    assert re.search(r"asked with 8 frames, 2\.0 s of sound; \d+\.\d s; \d+ words of reasoning", text)
    assert "asked with 8 frames, no sound" in answers["nano/student", "vision"][1]
    assert "asked with no pictures, 2.0 s of sound" in answers["nano/student", "audio"][1]
    assert len({raw for _, _, raw, _ in answers.values()}) == 3
    places = [rect for *_, rect in answers.values()]
    assert len({place["y"] for place in places}) == 1
    assert len({place["x"] for place in places}) == 3
    # What the student really got: its own size of frames, all of the sound.
    sizes = browser.execute_script("return arguments[0].map(i => [i.naturalWidth, i.naturalHeight])", frames)
    assert sizes == [[56, 56]] * 8
    assert browser.execute_script("return document.querySelector('#got audio').duration") == pytest.approx(2.0, abs=0.1)
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    fetched = [name for name in browser.execute_script(script) if not name.startswith("data:")]
    assert len(fetched) > 10
    assert [name for name in fetched if not name.startswith(commands[0].address)] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@needs_browser
def test_an_example_and_how_answers_are_drawn(browser, commands):
    page = Page(browser, commands[0])
    next(button for button in page.all("button") if button.text == "needs both senses").click()
    page.all("#got img", 8)
    next(button for button in page.all("button") if button.text.startswith("How it is asked")).click()
    assert "First think, then answer." in page.all("#manners")[0].get_attribute("textContent")
    page.type("#temperature", "1.5")

    def drawn(seed):
        page.type("#seed", str(seed))
        [(_, _, raw, _)] = page.ask().values()
        return raw

    assert drawn(1) == drawn(1) != drawn(2)
    page.type("#tokens", "3")
    [(letter, text, _, _)] = page.ask().values()
    assert letter is None
    assert "no choice can be read" in text
    assert "Cut off" in text


@needs_browser
def test_what_is_wrong_is_said_in_one_sentence(browser, commands, clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(os.urandom(10_000))
    page = Page(browser, commands[0])
    page.all("#ask")[0].click()
    assert page.alert() == "There is no clip yet: drop a video, a picture or a sound."
    page.drop(broken)
    page.all("#got [role=alert]", 1)
    assert page.alert().startswith("broken.mp4 is not a clip that can be shown to a student: cannot be opened")
    page = Page(browser, commands[0])
    page.drop(clip)
    page.all("#got img", 8)
    page.type("#question", QUESTION)
    page.type("#options", "only one")
    page.all("#ask")[0].click()
    assert page.alert() == "There have to be 2 to 26 options, one per line, and there is 1."
    assert "Traceback" not in commands[0].log.read_text()


@needs_browser
def test_two_students_stand_side_by_side(browser, commands, clip):
    page = Page(browser, commands[1])
    page.drop(clip)
    page.type("#question", QUESTION)
    page.type("#options", "\n".join(CHOICES))
    page.all("#got img", 8)
    answers = page.ask(4)  # each with the senses that either was trained with
    assert list(answers) == [(s, m) for m in ("both", "vision") for s in ("nano/student", "nano/teachers/visual")]
    (_, _, _, left), (_, text, _, right) = (answers[s, "vision"] for s in ("nano/student", "nano/teachers/visual"))
    assert left["y"] == right["y"]
    assert left["x"] < right["x"]
    assert "The frames show a red ball." in text


@needs_browser
def test_nothing_is_left_when_it_is_interrupted(commands):
    one, _ = commands
    assert one.address
    assert list(one.log.parent.glob("avrt-chat-*/made/*"))
    assert one.interrupt() == 0
    assert [path.name for path in one.log.parent.iterdir()] == ["chat.log"]
    assert "Traceback" not in one.log.read_text()


def test_without_gradio_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(AvrtError, match=r"needs Gradio \(pip install 'avrt\[chat\]'\)"):
        chat.main(["nano/student"])
