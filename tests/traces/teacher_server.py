"""A chat-completions server in a process of its own, for faults that a real model server does not have on demand.

It logs every request and every reply, fails as its options say, and answers like teachers that are right about a known
share of the questions and like a merger that keeps to the format.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import json
import re
import time

import soundfile
from aiohttp import web

FAULTS = ("429", "500", "hang", "cut", "empty", "malformed")


def reply_to(model: str, body: dict) -> str:
    """What the model of that name writes."""
    text = prompt_of(body)
    if model == "judge":
        return "Yes." if "I hear" in text else "no"
    question = re.findall(r"Question: (.*)", text)[-1]
    if "Correct option: (" in text:
        letter, choice = re.findall(r"Correct option: \(([A-Z])\) (.*)", text)[-1]
        return (
            f"<think>Something is seen and something is heard about {question} and the first thing that stands out is "
            f"a noise which goes together with the picture, so that {choice} is left while the others fall away one "
            f"by one under what both senses tell of the clip.</think><answer>{letter}</answer>"
        )
    options = re.findall(r"^\(([A-Z])\) (.*)$", text.rpartition("Question:")[2], re.MULTILINE)
    right = next(letter for letter, choice in options if "true" in choice)
    draw = int(hashlib.md5(f"{model}{question}".encode()).hexdigest(), 16) % 10
    letter = right if draw < 7 else next(letter for letter, _ in options if letter != right)
    said = dict(options)[letter]
    sense = "Visual" if media_of(body)["pictures"] else "Audio"
    return f"{sense} Description: a thing.\nReasoning: (A) It may be. ({letter}) It is.\nAnswer: ({letter}) {said}"


def prompt_of(body: dict) -> str:
    """The text of the user message."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def media_of(body: dict) -> dict:
    """The number of JPEG images and the seconds of each WAV in a request."""
    content = body["messages"][-1]["content"]
    parts = [] if isinstance(content, str) else content
    pictures = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
    sounds = [p["input_audio"] for p in parts if p["type"] == "input_audio"]
    for picture in pictures:
        head, _, data = picture.partition(",")
        assert head == "data:image/jpeg;base64", head
        assert base64.b64decode(data)[:2] == b"\xff\xd8"
    seconds = []
    for sound in sounds:
        assert sound["format"] == "wav"
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound["data"])))
        seconds.append(len(samples) / rate)
    return {"pictures": len(pictures), "sounds": seconds}


class Server:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.log = open(options.log, "a", buffering=1) if options.log else None  # noqa: SIM115
        self.seen: dict[str, int] = {}
        self.rules: dict[str, list[dict]] = json.loads(options.rules)

    def note(self, **record: object) -> None:
        if self.log:
            self.log.write(json.dumps(record) + "\n")

    def fault(self, body: dict) -> str | None:
        """Which way this attempt goes wrong; decided by the request and how often it came, so that runs repeat."""
        name = hashlib.md5(json.dumps(body, sort_keys=True).encode()).hexdigest()
        self.seen[name] = self.seen.get(name, 0) + 1
        draw = int(hashlib.md5(f"{name}{self.seen[name]}".encode()).hexdigest(), 16)
        return FAULTS[draw // 100 % len(FAULTS)] if draw % 100 < self.options.fail_percent else None

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": m, "object": "model"} for m in self.options.models]}
        )

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        what = {"model": body["model"], "question": (re.findall(r"Question: (.*)", prompt_of(body)) or [""])[-1]}
        fault = self.fault(body) if self.options.fail_percent else None
        if self.log:
            system = [m["content"] for m in body["messages"] if m["role"] == "system"]
            self.note(
                event="request",
                at=time.time(),
                fault=fault,
                prompt=prompt_of(body),
                system=system,
                **media_of(body),
                **what,
            )
        if self.options.delay:
            await asyncio.sleep(self.options.delay)
        if fault == "429":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.05"})
        if fault == "500":
            return web.Response(status=500, text="internal error")
        if fault == "hang":
            await asyncio.sleep(30)
        if fault == "cut":
            request.transport.close()
            return web.Response()
        if rules := self.rules.get(body["model"]):
            asked = prompt_of(body)
            rule = next(rule for rule in rules if rule.get("when", "") in asked)
            message = {"role": "assistant", "content": rule.get("content"), **rule.get("further", {})}
            whole = {"choices": [{"index": 0, "message": message, "finish_reason": rule.get("finish", "stop")}]}
            return web.json_response(rule.get("body", whole), status=rule.get("status", 200))
        text = "" if fault == "empty" else reply_to(body["model"], body)
        message: dict = {"role": "assistant", "content": text}
        if body["model"].endswith("thinking"):
            message["reasoning_content"] = "Let me look at it for a while."
        record = {
            "id": "x", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }  # fmt: skip
        name = f"{self.options.seed} {what}"
        if int(hashlib.md5(name.encode()).hexdigest(), 16) % 100 < self.options.mutate_percent:
            from mutations import mutate  # beside this script, which runs in a process of its own

            status, mutant, headers = mutate(record, name)
            self.note(event="mutated", status=status, **what)
            return web.Response(body=mutant, status=status, content_type="application/json", headers=headers)
        data = json.dumps(record)
        response = web.Response(text=data[:40] if fault == "malformed" else data, content_type="application/json")
        await response.prepare(request)
        await response.write_eof()
        self.note(event="sent", at=time.time(), ok=fault is None, **what)
        return response


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", default="")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--fail_percent", type=int, default=0)
    parser.add_argument("--mutate_percent", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    # JSON: model -> rules; the first whose "when" is in the prompt gives status, body, content, finish, further
    parser.add_argument("--rules", default="{}")
    parser.add_argument("--models", nargs="*", default=["visual", "audio", "merger"])
    options = parser.parse_args()
    server = Server(options)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/v1/chat/completions", server.complete)
    app.router.add_get("/v1/models", server.models)
    web.run_app(app, port=options.port, host="127.0.0.1", print=None, access_log=None)


if __name__ == "__main__":
    main()
