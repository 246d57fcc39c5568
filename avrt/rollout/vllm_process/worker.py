"""A vLLM engine behind a socket: run by the Python of vLLM's own environment, which need not hold this project.

    python worker.py --listen 0.0.0.0:8765     # on the machine with the GPU that is to sample

vLLM pins a torch and a transformers of its own, so it gets a process and an environment of its own as well. The
trainer starts one beside itself or connects to one that runs elsewhere; it then tells it what to load, and pushes new
weights whenever they have changed. Whoever can connect can make it load a model: let only the trainer's network in.
"""

from __future__ import annotations

import argparse
import os
import socket
import traceback
from functools import partial
from typing import Any

from reading import held_weights  # type: ignore[import-not-found]  # files beside this script
from wire import WireError, receive, send  # type: ignore[import-not-found]  # the file beside this script

OPERATIONS = ("sample", "load", "read", "sleep", "wake_up")


class Engine:
    """One vLLM engine and the weights on their way to it.

    Args:
        model: Folder with config and processor in the layout of the released checkpoints, on this machine.
        settings: Arguments of `vllm.LLM`.
    """

    def __init__(self, model: str, settings: dict[str, Any]) -> None:
        from vllm import LLM

        self.started = (model, settings)
        self._llm = LLM(model=model, **settings)
        self._incoming: dict[str, Any] = {}

    def sample(self, message: dict[str, Any], tensors: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Answer every prompt of a message once per seed."""
        import torch
        from vllm import SamplingParams

        prompts, params, owners = [], [], []
        for number, prompt in enumerate(message["prompts"]):
            for seed in prompt["seeds"]:
                prompts.append(self._prompt(number, prompt, tensors))
                params.append(SamplingParams(**message["sampling"], seed=seed, logprobs=0, detokenize=False))
                owners.append(number)
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        found: dict[str, Any] = {}
        finished, lengths = [], []
        for i, output in enumerate(outputs):
            answer = output.outputs[0]
            ids = list(answer.token_ids)
            found[f"tokens.{i}"] = torch.tensor(ids, dtype=torch.long)
            found[f"logprobs.{i}"] = torch.tensor(
                [step[token].logprob for step, token in zip(answer.logprobs, ids, strict=True)], dtype=torch.float32
            )
            if i == 0 or owners[i] != owners[i - 1]:
                found[f"prompt.{owners[i]}"] = torch.tensor(list(output.prompt_token_ids), dtype=torch.long)
            finished.append(answer.finish_reason == "stop")
            lengths.append(len(ids))
        return {"finished": finished, "tokens": sum(lengths)}, found

    @staticmethod
    def _prompt(number: int, prompt: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
        media: dict[str, Any] = {}
        if (frames := tensors.get(f"video.{number}")) is not None:
            count, fps = len(frames), prompt["fps"]
            seen = {"fps": fps, "duration": count / fps, "total_num_frames": count, "frames_indices": [*range(count)],
                    "do_sample_frames": False}  # fmt: skip
            media["video"] = [(frames.permute(0, 2, 3, 1).numpy(), seen)]
        if (picture := tensors.get(f"image.{number}")) is not None:
            from PIL import Image

            media["image"] = [Image.fromarray(picture.permute(1, 2, 0).numpy())]
        if (sound := tensors.get(f"audio.{number}")) is not None:
            media["audio"] = [(sound.numpy(), 16_000)]
        asked: dict[str, Any] = {"prompt_token_ids": prompt["token_ids"]}
        if media:
            asked |= {"multi_modal_data": media, "mm_processor_kwargs": prompt["processor"]}
        return asked

    def load(self, message: dict[str, Any], tensors: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Take up some weights, and all that came once the last ones are there."""
        self._incoming |= tensors
        if message["last"]:
            weights, self._incoming = list(self._incoming.items()), {}
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            self._llm.reset_prefix_cache()
            self._llm.reset_mm_cache()
            reset = getattr(self._llm.llm_engine.engine_core, "reset_encoder_cache", None)
            if reset is not None:
                reset()
        return {}, {}

    def read(self, message: dict[str, Any], tensors: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Some weights as they are held, by the names that they were loaded under."""
        [found] = self._llm.apply_model(partial(held_weights, names=message["names"]))
        return {}, found

    def sleep(self, message: dict[str, Any], tensors: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Free the GPU's memory for the trainer."""
        self._llm.sleep(level=1)
        return {}, {}

    def wake_up(self, message: dict[str, Any], tensors: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Take it back, for some parts: `weights`, `kv_cache`."""
        self._llm.wake_up(tags=message["tags"])
        return {}, {}


def serve(listener: socket.socket, *, once: bool) -> None:
    """Answer one trainer after the other."""
    engine: Engine | None = None
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while True:
                try:
                    message, tensors = receive(connection)
                except WireError:
                    break
                try:
                    if message["do"] == "start":
                        engine = engine or Engine(message["model"], message["settings"])
                        if engine.started != (message["model"], message["settings"]):
                            raise ValueError(f"serves {engine.started} already; start it again for another model")
                        import vllm

                        reply, found = {"version": vllm.__version__}, {}
                    elif engine is None:
                        raise RuntimeError("no model was started")
                    elif message["do"] not in OPERATIONS:
                        raise ValueError(f"unknown operation {message['do']}")
                    else:
                        reply, found = getattr(engine, message["do"])(message, tensors)
                except Exception as error:  # the trainer is told, and decides
                    traceback.print_exc()
                    reply, found = {"error": f"{type(error).__name__}: {error}"}, {}
                try:
                    send(connection, reply, found)
                except WireError:
                    break
        if once:
            return


def main() -> None:
    """Listen, say where, and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port; port 0 takes a free one and prints it")
    parser.add_argument("--once", action="store_true", help="end when the first trainer has gone")
    options = parser.parse_args()
    # In one process with its engine core, so that weights reach the model without being pickled.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    host, _, port = options.listen.rpartition(":")
    with socket.create_server((host, int(port))) as listener:
        print(f"listening on {host}:{listener.getsockname()[1]}", flush=True)
        os.dup2(2, 1)  # nobody reads on; what vLLM prints from now on would fill the pipe and block it
        serve(listener, once=options.once)


if __name__ == "__main__":
    main()
