"""Soft-NMS of the kit against a compiled C++ loop, on the five golden cases, 5 segments kept.

    python benchmarks/nms.py

Needs g++. The loop is the plain one: take the best, fade the rest, drop what fell below the minimum; once
until nothing is left (as the published program has it, which cuts afterwards) and once only until 5 are kept.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from groundnlq.model.decode import soft_nms

LOOP = r"""
#include <algorithm>
#include <cmath>
#include <vector>
extern "C" int soft_nms(const float* segments, const float* scores, int n, int keep, float sigma,
                        float min_score, float* out) {
  std::vector<float> s(scores, scores + n);
  std::vector<int> rest(n);
  for (int i = 0; i < n; ++i) rest[i] = i;
  int kept = 0;
  while (!rest.empty() && kept < keep) {
    auto best = std::max_element(rest.begin(), rest.end(), [&](int a, int b) { return s[a] < s[b]; });
    int b = *best;
    rest.erase(best);
    out[3 * kept] = segments[2 * b]; out[3 * kept + 1] = segments[2 * b + 1]; out[3 * kept + 2] = s[b];
    ++kept;
    size_t left = 0;
    for (int i : rest) {
      float inter = std::max(0.f, std::min(segments[2 * b + 1], segments[2 * i + 1]) -
                                      std::max(segments[2 * b], segments[2 * i]));
      float both = segments[2 * b + 1] - segments[2 * b] + segments[2 * i + 1] - segments[2 * i] + 2e-6f;
      float iou = inter / (both - inter);
      s[i] *= std::exp(-iou * iou / sigma);
      if (s[i] >= min_score) rest[left++] = i;
    }
    rest.resize(left);
  }
  return kept;
}
"""


def compiled_loop():
    folder = Path(tempfile.mkdtemp())
    (folder / "nms.cpp").write_text(LOOP)
    library = folder / "nms.so"
    subprocess.run(["g++", "-O3", "-shared", "-fPIC", "-o", library, folder / "nms.cpp"], check=True)
    function = ctypes.CDLL(str(library)).soft_nms
    floats = np.ctypeslib.ndpointer(np.float32, flags="C")
    function.argtypes = [floats, floats, *[ctypes.c_int] * 2, *[ctypes.c_float] * 2, floats]
    return function


def best_time(call, repeats: int = 300) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e6 * float(np.median(times))


def main() -> None:
    loop, out = compiled_loop(), np.zeros((2000, 3), np.float32)
    cases = np.load(Path(__file__).parents[1] / "tests" / "golden" / "nms.npz", allow_pickle=False)
    print("microseconds | C++, all picks | C++, 5 picks | kit, one query | kit, each of 11 queries at once")
    total = np.zeros(4)
    for i in range(5):
        segments, scores = cases[f"segments/{i}"], cases[f"scores/{i}"]
        s, p = torch.from_numpy(segments)[None], torch.from_numpy(scores)[None]
        s11, p11 = s.expand(11, -1, -1).contiguous(), p.expand(11, -1).contiguous()
        row = [
            best_time(lambda a=segments, b=scores, k=keep: loop(a, b, len(b), k, 0.75, 0.001, out))
            for keep in (len(scores), 5)
        ]
        with torch.inference_mode():
            row.append(best_time(lambda s=s, p=p: soft_nms(s, p, 5)))
            row.append(best_time(lambda s=s11, p=p11: soft_nms(s, p, 5)) / 11)
        total += row
        print(f"{len(scores):5d} segments " + "".join(f"{us:12.0f}" for us in row))
    print("all five cases " + "".join(f"{us:11.0f} " for us in total))


if __name__ == "__main__":
    main()
