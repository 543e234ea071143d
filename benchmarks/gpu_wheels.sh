#!/bin/sh
# Collect the packages that gpu.py needs and a bare machine with torch lacks, as wheels in the folder .whl
# beside the package (to be ignored by git): sh benchmarks/gpu_wheels.sh
# gpu.py takes them from there without an installation. They are for Python 3.12 on 64-bit Intel and AMD.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
rm -rf .whl && mkdir .whl
platforms=""
for number in 39 34 31 28 27 24 17; do platforms="$platforms --platform manylinux_2_${number}_x86_64"; done
fetch() {
    # shellcheck disable=SC2086
    "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        $platforms --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d .whl "$@"
}
fetch pydantic annotated-types typing-inspection typing-extensions
core=$(unzip -p .whl/pydantic-*.whl '*/METADATA' | sed -n 's/^Requires-Dist: pydantic-core *//p' | head -1)
fetch "pydantic-core$core"
du -sk .whl
