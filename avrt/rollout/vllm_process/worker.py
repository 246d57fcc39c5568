"""A vLLM engine behind a socket: run by the Python of vLLM's own environment, which need not hold this project.

    python worker.py --listen 0.0.0.0:8765     # on the machine with the GPU that is to sample

vLLM pins a torch and a transformers of its own, so it gets a process and an environment of its own as well. The
trainer starts one beside itself or connects to one that runs elsewhere; it then tells it what to load, and pushes new
weights whenever they have changed. Whoever can connect can make it load a model: let only the trainer's network in.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

# the files beside this script
from blocks import DeviceBlock, HostBlock, gpu_index  # type: ignore[import-not-found]
from family_facts import with_extension  # type: ignore[import-not-found]
from handed_tokens import take_handed_tokens, with_tokens  # type: ignore[import-not-found]
from positions import extra_args, used_positions  # type: ignore[import-not-found]
from reading import held_weights  # type: ignore[import-not-found]
from sound_length import keep_sound_lengths  # type: ignore[import-not-found]
from wire import WireError, keep_alive, receive, send  # type: ignore[import-not-found]

OPERATIONS = ("sample", "attach", "load", "read", "checksums", "sleep", "wake_up")
PARTS = ("weights", "kv_cache")
"""What of an engine can be woken by itself."""
BLOCKS = {"shared_memory": HostBlock, "cuda_ipc": DeviceBlock}
RELOADING = "vllm.model_executor.model_loader.reload.layerwise"
"""Where vLLM 0.32 logs which layers got no weights."""
PARENT_SECONDS = 1.0
"""How often an engine beside a trainer looks whether that is still there."""
Message = tuple[dict[str, Any], dict[str, Any]]


class LostError(Exception):
    """The engine has failed in the middle of its work and cannot be asked again."""


class Engine:
    """One vLLM engine and the weights on their way to it.

    Args:
        model: Folder with config and processor in the layout of the released checkpoints, on this machine.
        settings: Arguments of `vllm.LLM`.
        family: What its family is like, as the trainer's `avrt.models.engine_prompts.EngineFacts` has it.

    Attributes:
        next_message: Replies to the message at hand and waits for the next one.
        lacking: What this version of vLLM has not of what was to be put right in it; see the files beside this one.
        asleep: Which of its parts sleep: `weights`, `kv_cache`.
    """

    def __init__(self, model: str, settings: dict[str, Any], family: dict[str, Any]) -> None:
        from vllm import LLM

        self.started = (model, settings, family)
        self.next_message: Callable[[], Message] = _no_more
        self._llm = LLM(model=model, **with_extension(settings, family))
        self._prefixes: dict[str, str] = family["prefixes"]
        lacking = [name for found in self._llm.collective_rpc("follow_trainer") for name in found]
        self.lacking: list[str] = sorted({*take_handed_tokens(), *keep_sound_lengths(), *lacking})
        self.asleep: list[str] = []
        self._block: Any = None
        self._slept = 0

    def sample(self, message: dict[str, Any], tensors: dict[str, Any]) -> Message:
        """Answer every prompt of a message once per seed."""
        import torch
        from vllm import SamplingParams

        prompts: list[dict[str, Any]] = []
        params: list[Any] = []
        owners: list[int] = []
        for number, prompt in enumerate(message["prompts"]):
            for seed in prompt["seeds"]:
                prompts.append(self._prompt(number, prompt, tensors))
                extra = extra_args(len(params), tensors[f"positions.{number}"])
                asked = message["sampling"] | {"seed": seed, "logprobs": 0, "detokenize": False}
                params.append(SamplingParams(**asked, extra_args=extra))
                owners.append(number)
        begun = time.perf_counter()
        try:
            outputs = self._llm.generate(prompts, params, use_tqdm=False)
        except Exception as error:
            unfinished = getattr(self._llm.llm_engine, "has_unfinished_requests", None)
            if unfinished is not None and unfinished():  # it would go on with these, and fail or hang again
                raise LostError(f"{type(error).__name__}: {error}") from error
            raise
        seconds = time.perf_counter() - begun
        found: dict[str, Any] = {f"positions.{i}": used for i, used in used_positions(self._llm).items()}
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
        return {"finished": finished, "tokens": sum(lengths), "seconds": seconds}, found

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
            options = with_tokens(prompt["processor"], prompt["placeholders"])
            asked |= {"multi_modal_data": media, "mm_processor_kwargs": options}
        return asked

    def attach(self, message: dict[str, Any], tensors: dict[str, Any]) -> Message:
        """Open memory of the trainer through which weights will come, or say why that is not possible.

        Without a handle it is only asked whether the engine is on the trainer's GPU.
        """
        self.detach()
        parallel = getattr(getattr(self._llm.llm_engine, "vllm_config", None), "parallel_config", None)
        if message["way"] == "cuda_ipc" and getattr(parallel, "world_size", 1) > 1:
            return {"refused": "the engine is on several GPUs"}, {}
        try:
            if message["way"] == "cuda_ipc" and "handle" not in message:
                gpu_index(message["uuid"])
                return {}, {}
            self._block = BLOCKS[message["way"]](message)
        except (OSError, ValueError, RuntimeError) as error:
            return {"refused": str(error).partition("\n")[0]}, {}
        return {}, {}

    def detach(self) -> None:
        """Let go of that memory."""
        if self._block is not None:
            self._block.close()
            self._block = None

    def load(self, message: dict[str, Any], tensors: dict[str, Any]) -> Message:
        """Take up weights: this message's and those of the messages that follow, up to the last one."""
        weights = self._through_gpu(message) if message["way"] == "cuda_ipc" else self._on_host(message, tensors)
        log = logging.getLogger(RELOADING)
        log.addFilter(_tells_of_more_than_missing)
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        finally:
            log.removeFilter(_tells_of_more_than_missing)
        if message["way"] == "cuda_ipc":
            import torch

            torch.cuda.empty_cache()  # of whole tensors, which the trainer may need
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        reset = getattr(self._llm.llm_engine.engine_core, "reset_encoder_cache", None)
        if reset is not None:
            reset()
        return {}, {}

    def _on_host(self, message: dict[str, Any], tensors: dict[str, Any]) -> list[tuple[str, Any]]:
        """All of them, before vLLM begins to replace its own: the trainer may die in between."""
        found: dict[str, Any] = {}
        while True:
            found |= self._block.tensors(message["table"]) if message["way"] == "shared_memory" else tensors
            if message["last"]:
                return list(found.items())
            message, tensors = self.next_message()

    def _through_gpu(self, message: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """One message's after the other, since the GPU has no room for all beside vLLM's own."""
        while True:
            yield from self._block.tensors(message["table"])
            if message["last"]:
                return
            try:
                message, _ = self.next_message()
            except WireError:
                # vLLM's own weights are half replaced, and it cannot go back.
                print("the trainer has gone while it handed weights over", file=sys.stderr, flush=True)
                os._exit(1)

    def read(self, message: dict[str, Any], tensors: dict[str, Any]) -> Message:
        """Some weights as they are held, by the names that they were loaded under."""
        [found] = self._llm.apply_model(partial(held_weights, names=message["names"], prefixes=self._prefixes))
        return {}, found

    def checksums(self, message: dict[str, Any], tensors: dict[str, Any]) -> Message:
        """SHA-256 of each of vLLM's own parameters, by vLLM's names."""
        [found, *_] = self._llm.collective_rpc("compute_weight_checksums")
        return {"checksums": {name.rpartition(":")[2]: value for name, value in found.items()}}, {}

    def sleep(self, message: dict[str, Any], tensors: dict[str, Any]) -> Message:
        """Free the GPU's memory for the trainer."""
        self._slept = message["level"]
        self._llm.sleep(level=self._slept)
        self.asleep = [*PARTS]
        return {}, {}

    def wake_up(self, message: dict[str, Any], tensors: dict[str, Any]) -> Message:
        """Take it back, for some parts: `weights`, `kv_cache`."""
        self._llm.wake_up(tags=message["tags"])
        if self._slept == 2 and "weights" in message["tags"]:
            # All weights were thrown away, also the towers', which the trainer does not hand over.
            self._llm.collective_rpc("reload_weights")
        self.asleep = [part for part in self.asleep if part not in message["tags"]]
        return {}, {}


def _tells_of_more_than_missing(record: logging.LogRecord) -> bool:
    """Not the warning about each layer of the towers, which are frozen and not handed over."""
    return "Failed to load weights" not in str(record.msg)


def _no_more() -> Message:
    raise RuntimeError("no trainer is connected")


def serve(listener: socket.socket, *, once: bool) -> None:
    """Answer one trainer after the other."""
    engine: Engine | None = None
    while True:
        connection, _ = listener.accept()
        keep_alive(connection)
        with connection:
            while True:
                try:
                    message, tensors = receive(connection)
                    engine, reply, found = _answer(engine, connection, message, tensors)
                    send(connection, reply, found)
                    if "lost" in reply:
                        os._exit(1)
                except WireError:
                    break
        if engine is not None:
            engine.detach()
        if once:
            return


def _answer(
    engine: Engine | None, connection: socket.socket, message: dict[str, Any], tensors: dict[str, Any]
) -> tuple[Engine | None, dict[str, Any], dict[str, Any]]:
    """Do what a message asks: the engine from then on, and the reply."""

    def next_message() -> Message:
        send(connection, {})
        following: Message = receive(connection)
        if following[0].get("do") != message["do"]:
            raise ValueError(f"{following[0].get('do')} in the middle of {message['do']}")
        return following

    try:
        if message["do"] == "start":
            wanted = message["model"], message["settings"], message["family"]
            engine = engine or Engine(*wanted)
            if engine.started != wanted:
                raise ValueError(f"serves {engine.started} already; start it again for another model")
            import vllm

            # An engine that serves on may sleep since the trainer before, or since the connection was lost.
            return engine, {"version": vllm.__version__, "asleep": engine.asleep, "lacking": engine.lacking}, {}
        if engine is None:
            raise RuntimeError("no model was started")
        if message["do"] not in OPERATIONS:
            raise ValueError(f"unknown operation {message['do']}")
        engine.next_message = next_message
        return engine, *getattr(engine, message["do"])(message, tensors)
    except WireError:
        raise
    except LostError as error:
        traceback.print_exc()
        return engine, {"lost": str(error)}, {}
    except Exception as error:  # the trainer is told, and decides
        traceback.print_exc()
        return engine, {"error": f"{type(error).__name__}: {error}"}, {}


def end_with(parent: int) -> None:
    """Watch the trainer that started this process, and end with it: one that is killed cannot end it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        print("the trainer has gone", file=sys.stderr, flush=True)
        os._exit(1)  # whatever vLLM is at, which may take long and holds the GPU

    threading.Thread(target=watch, name="end-with-trainer", daemon=True).start()


def main() -> None:
    """Listen, say where, and serve."""
    parent = os.getppid()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port; port 0 takes a free one and prints it")
    parser.add_argument("--once", action="store_true", help="end when the first trainer has gone")
    options = parser.parse_args()
    # In one process with its engine core, so that weights reach the model without being pickled.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # The runner whose positions are known to be read back; the other one's, which vLLM prefers on GPUs, never were.
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    host, _, port = options.listen.rpartition(":")
    with socket.create_server((host, int(port))) as listener:
        if options.once:
            # Slurm sends SIGTERM to all processes of a step: it is for the trainer, which saves and then ends this one.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            end_with(parent)
            listener.settimeout(60)  # a trainer that started it and has not come by then has gone
        print(f"listening on {host}:{listener.getsockname()[1]}", flush=True)
        os.dup2(2, 1)  # nobody reads on; what vLLM prints from now on would fill the pipe and block it
        serve(listener, once=options.once)


if __name__ == "__main__":
    main()
