"""A real inference server: vLLM's CPU build serving the nano teachers, called by the openai backend.

`make server` sets up its environment; without it these tests are skipped.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from avrt.commands import shards as shards_command
from avrt.policy.policy import load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import StudentOptions
from avrt.traces.database import rows
from avrt.traces.student_backend import find_model
from tests.conftest import avrt
from tests.traces.servers import free_port, wait_for

PYTHON = Path(__file__).parents[2] / ".venv-server" / "bin" / "python"
pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-server here: `make server` sets it up"),
]
QUESTIONS = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Questions of nano_world that no teacher was trained on."""
    root = tmp_path_factory.mktemp("world")
    options = ["--root", root / "clips", "--out", root / "test", "--split", "test", "--clips", QUESTIONS]
    shards_command.main(["nano_world", *map(str, options), "--questions_per_clip", "1"])
    return root / "test"


@pytest.fixture(params=["visual", "audio"])
def served(request, tmp_path):
    """(teacher's name, URL) of a vLLM server with that teacher."""
    name, port = request.param, free_port()
    student = load_policy(StudentOptions(source=str(find_model(f"nano/teachers/{name}")), dtype="float32"))
    export_policy(student, tmp_path / name, full_layout=True)
    command = [
        str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(tmp_path / name),
        "--served-model-name", name, "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32",
        "--max-model-len", "2048", "--enforce-eager", "--max-num-seqs", "8",
        "--limit-mm-per-prompt", '{"image": 8, "audio": 1, "video": 0}',
    ]  # fmt: skip
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/v1", process, seconds=300)
            yield name, f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(process.pid, 15)
            process.wait(60)


def test_a_real_server_looks_listens_and_writes(served, world, tmp_path):
    name, url = served

    def role(**sampling):
        arguments = {"model": name, "endpoints": [url], "concurrency": 4, "timeout": 120.0}
        class_path = "avrt.traces.openai_backend.OpenAIBackend"
        backend = {"class_path": class_path, "init_args": arguments}
        return {"backend": backend, "template": "nano.txt", "sampling": {"max_tokens": 96, **sampling}}

    config = {name: role(), "merger": {**role(max_tokens=32), "template": "merger_any.txt"}, "filter": "none"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "out"
    done = avrt("traces", "run", "--config", tmp_path / "c.yaml", "--data", world, "--out", out, check=False)
    # A nano teacher does not merge in the format, so no trace is kept, which ends with status 1; the calls are made.
    assert done.returncode == 0 or "no trace from 12 samples" in done.stderr

    calls = [dict(row) for row in rows(out, "SELECT * FROM calls")]
    assert {c["status"] for c in calls} == {"done"}
    taught = [c for c in calls if c["role"] == name]
    merged = [c for c in calls if c["role"] == "merger"]
    assert len(taught) == len(merged) == QUESTIONS  # a text-only call for every question too
    assert {(c["pictures"], c["sound"]) for c in taught} == {(8, 0) if name == "visual" else (0, 1)}
    assert {(c["pictures"], c["sound"]) for c in merged} == {(0, 0)}
    assert all(c["completion_tokens"] and c["prompt_tokens"] for c in calls)

    # What it says is what the clip shows or plays, so pictures and sound have really reached it.
    pattern = r"show a ([^.]*)\." if name == "visual" else r"sound is a ([^.]*)\."
    truths = truth(world, "thing" if name == "visual" else "sound")
    said = {c["sample"]: (re.findall(pattern, c["text"]) or [None])[0] for c in taught}
    right = sum(said[sample] == truths[sample] for sample in truths)
    print(json.dumps({"teacher": name, "described right": right, "of": QUESTIONS}))
    assert right >= 0.75 * QUESTIONS


def truth(world, field):
    from avrt.data.shards.reader import ShardSet

    return {sample.id: sample.metadata[field] for sample in ShardSet(world).samples()}
