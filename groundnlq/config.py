"""What a run is: a frozen tree of numbers, saved beside its checkpoints. Presets are YAML files in `configs/`."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from groundnlq.config_published import translate
from groundnlq.data.grid import FPS, SNIPPET_STRIDE_FRAMES, HalfWindow, StepGrid
from groundnlq.errors import ConfigError, closest
from groundnlq.files import parse_yaml, write_text

_Path = Annotated[str, AfterValidator(os.path.expanduser)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
CONFIGS = Path(__file__).parent / "configs"
PUBLISHED_RANGES = ((0, 4), (2, 8), (4, 16), (8, 32), (16, 64), (32, 128), (64, 10000))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(_Section):
    """Shape of the network; the defaults are the published champion (32,527,498 parameters)."""

    video_dim: Positive = 2304
    text_dim: Positive = 512
    width: Positive = 384
    num_heads: Positive = 4
    window: NonNegative = 9  # steps that a step attends to; 0: the whole clip
    text_map_width: NonNegative = 0  # of stage one's text map, whose outputs stand beside the tokens; 0: none
    num_embed_layers: Positive = 2
    num_text_layers: NonNegative = 4
    num_stem_layers: Positive = 4
    num_cross_levels: NonNegative = 0
    num_self_levels: NonNegative = 6
    max_seq_len: Positive = 2560
    position_table: bool = True  # added to the embedded clip
    regression_ranges_grid: tuple[tuple[float, float], ...] = PUBLISHED_RANGES
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    scale_init: float = 1e-4

    @property
    def num_levels(self) -> int:
        return 1 + self.num_cross_levels + self.num_self_levels

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.window and self.window % 2 == 0:
            raise ValueError(f"window {self.window} is even; a step sees as far back as ahead: make it odd")
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width} must be a multiple of 2 x num_heads ({self.num_heads})")
        if (given := len(self.regression_ranges_grid)) != self.num_levels:
            levels = f"{self.num_levels} levels (1 + num_cross_levels + num_self_levels)"
            raise ValueError(f"{given} regression_ranges_grid for {levels}: give one range per level")
        for low, high in self.regression_ranges_grid:
            if not 0 <= low < high:
                raise ValueError(f"regression_ranges_grid has [{low:g}, {high:g}]: a range needs 0 <= low < high")
        return self


class DataConfig(_Section):
    """Where the prepared files lie (names are relative to `folder`) and how steps lie in time."""

    folder: _Path = "data/ego4d"
    train_records: tuple[str, ...] = ("nlq_train.jsonl",)
    val_records: tuple[str, ...] = ("nlq_val.jsonl",)
    features: str = "features.h5"
    text: str = "text.h5"
    videos: str = "videos"  # folder of <clip_uid>.mp4 and others; read by stage one alone
    fps: Annotated[float, Field(gt=0)] = FPS
    snippet_stride_frames: Annotated[float, Field(gt=0)] = SNIPPET_STRIDE_FRAMES
    window_frames: Annotated[float, Field(gt=0)] | None = None  # that a feature was made from; None: the stride
    half_window: HalfWindow = "legacy"
    leave_out_incomplete: bool = False  # train without clips whose features miss their duration
    jitter_max_scale: Positive = 1  # temporal jittering of narrations; 1 switches it off, published: 10

    @property
    def grid(self) -> StepGrid:
        return StepGrid(self.fps, self.snippet_stride_frames, self.half_window, self.window_frames)

    def path(self, name: str) -> Path:
        return Path(self.folder) / name


class TrainConfig(_Section):
    """Optimisation, losses and what validation does; the defaults are the published fine-tuning."""

    seed: NonNegative = 0
    epochs: Positive = 10
    warmup_epochs: Annotated[float, Field(ge=0)] = 4  # part of epochs; 0.25 is a quarter of the first
    batch_size: Positive = 2
    accumulate_steps: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 2.5e-5
    scale_rate_with_processes: bool = True
    backbone_rate_factor: Annotated[float, Field(ge=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip_grad_norm: Annotated[float, Field(ge=0)] = 1.0  # 0 never clips
    ema_decay: Share = 0.999
    center_radius: Annotated[float, Field(gt=0)] = 1.5
    label_smoothing: Share = 0.1
    initial_loss_normaliser: Annotated[float, Field(gt=0)] = 200.0
    regression_weight: Annotated[float, Field(ge=0)] = 1.0
    # Positives are counted over all processes, so that N processes train like one. True counts as published: every
    # process divides by its own running count, so a positive weighs more where the others are few, and early steps
    # weigh up to N times less, since each process starts at `initial_loss_normaliser`.
    published_normaliser: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    tf32: bool = False  # CUDA: faster products of float32 matrices, rounded to 10 bits
    cuda_graphs: bool = False  # CUDA, one process: launch a step at once, with few lengths that batches are padded to
    init_from: _Path | None = None  # weights of a run of stage two, or the text map of stage one (its run, or `sample`)
    init_heads: bool = False  # take the heads of `init_from`, too; by default they start fresh
    allow_other_encoder: bool = False  # start from weights trained with another encoder's tokens or features
    validate_every_epochs: Positive = 1
    patience_epochs: NonNegative = 0  # 0 never stops early
    checkpoint_every_steps: NonNegative = 0  # 0 saves at the end of epochs only
    keep_checkpoints: Positive = 2
    timeout_sec: Annotated[float, Field(gt=0)] = 600.0  # a process that answers no other for so long has failed
    allow_other_world_size: bool = False  # go on with another number of processes, at the same global batch
    deterministic: bool = False  # only deterministic kernels, slower; an error where there is none
    tensorboard: bool = False  # also write the log for TensorBoard (extra `tensorboard`)

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """Steps until the full learning rate."""
        return round(self.warmup_epochs * steps_per_epoch)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be smaller than epochs {self.epochs}")
        if self.init_heads and self.init_from is None:
            raise ValueError("init_heads needs init_from: name the weights to start from")
        return self


class AlignConfig(_Section):
    """Stage one, a video encoder that learns from narrations: towers, frames and loss; the defaults are EgoVLP's."""

    encoder: Literal["space-time", "small"] = "space-time"
    width: Positive = 256  # of a feature
    num_frames: Positive = 4
    size: Positive = 224  # pixels: height and width of what the encoder takes
    short_side: Positive = 256  # pixels that a frame is scaled to and cached with
    hidden: Positive = 768  # of space-time: width, blocks, heads, and pixels of a patch
    depth: Positive = 12
    num_heads: Positive = 12
    patch: Positive = 16
    channels: tuple[Positive, ...] = ()  # of small: of its convolutions
    init_from: _Path | None = None  # published weights of the space-time encoder, or a run folder of stage one
    text_encoder: str | None = None  # folder or hub name of a model that is trained, too; None: the tokens of data.text
    temperature: Annotated[float, Field(gt=0)] = 0.05
    scene_negatives: bool = False  # for every narration another one within a minute: the batch doubles
    window_frames: Annotated[float, Field(gt=0)] | None = None  # around a random time; None: the narrated moment
    frames_per_sec: Annotated[float, Field(gt=0)] = 7.5  # that are cached of a narrated moment ...
    frames_per_moment: NonNegative = 8  # ... at most so many, evenly spread; 0: all
    crop: tuple[Share, Share] = (0.5, 1.0)  # area of a random crop; (1, 1) crops nothing
    flip: bool = True
    cache_gb: Annotated[float, Field(ge=0)] = 100.0  # of decoded frames; what has no room is decoded at every use

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.encoder == "small" and len(self.channels) < 2:
            raise ValueError("the small encoder needs the channels of at least two convolutions")
        if self.encoder == "space-time" and (self.size % self.patch or self.hidden % self.num_heads):
            raise ValueError("size must be a multiple of patch, and hidden of num_heads")
        if not 0 < self.crop[0] <= self.crop[1]:
            raise ValueError(f"crop [{self.crop[0]:g}, {self.crop[1]:g}]: it needs 0 < smallest <= largest <= 1")
        return self


class DecodeConfig(_Section):
    """From offsets to ranked moments; the defaults are the published ones."""

    min_score: Share = 0.001
    pre_nms_topk: Positive = 2000
    min_duration_grid: Annotated[float, Field(ge=0)] = 0.001
    nms: Literal["soft", "hard", "none"] = "soft"
    sigma: Annotated[float, Field(gt=0)] = 0.75
    iou_threshold: Share = 0.1  # of hard NMS
    voting_iou: Share = 0.0  # 0 switches voting off
    top_k: Positive = 5


class RunConfig(_Section):
    """A whole run."""

    name: str
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    decode: DecodeConfig = DecodeConfig()
    align: AlignConfig | None = None  # given: the run is of stage one

    @property
    def task(self) -> str:
        """The module whose `task` says what a run of this configuration trains."""
        return "groundnlq.video.alignment" if self.align else "groundnlq.engine.grounding"

    @property
    def select_by(self) -> str:
        """The number of a validation by which the best weights are chosen."""
        return "EgoMCQ mean" if self.align else "mean R@1"

    @classmethod
    def parse(cls, tree: Mapping[str, Any], where: str) -> Self:
        """Check plain dictionaries."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(f"{where}: " + "; ".join(map(_explain, error.errors()))) from None

    def save(self, path: str | Path) -> None:
        """Write YAML that `load_config` reads back to an equal configuration."""
        write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    def differing_keys(self, other: Self) -> list[str]:
        """Dotted names of the values in which two configurations differ."""
        ours, theirs = dict(_leaves(self.model_dump())), dict(_leaves(other.model_dump()))
        return sorted(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load_config(source: str | Path, overrides: Iterable[str] | Mapping[str, object] = ()) -> RunConfig:
    """A preset by name or a YAML file, with overrides such as ``train.epochs=3``.

    A YAML file may name a preset it starts from (``base: finetune``). Files of the published program are understood;
    warnings list what is ignored and which defaults are used. A ConfigError names the closest known preset or key.
    """
    tree = _read_tree(source)
    for key, value in _pairs(overrides):
        _assign(tree, key, value)
    return RunConfig.parse(tree, str(source))


def _read_tree(source: str | Path) -> dict[str, Any]:
    name, known = str(source), preset_names()
    if name in known:
        path = CONFIGS / f"{name}.yaml"
    elif name.endswith((".yaml", ".yml")):
        path = Path(source)
    else:
        raise ConfigError(f"unknown preset {name!r}{closest(name, known)} -- presets: {', '.join(known)}")
    try:
        tree = parse_yaml(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror} -- name a preset ({', '.join(known)}) or a file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not plain YAML -- {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys, not {type(tree).__name__}")
    tree, notes = translate(tree, name)
    for note in notes:
        warnings.warn(f"{name}: {note}", stacklevel=3)
    base = tree.pop("base", None)
    if base is not None and base not in known:
        raise ConfigError(f"{name}: base {base!r} is not a preset{closest(str(base), known)}")
    return _merge(_read_tree(base) if base else {}, {"name": path.stem} | tree)


def _merge(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(dict(merged[key]), value) if both else value
    return merged


def _pairs(overrides: Iterable[str] | Mapping[str, object]) -> Iterator[tuple[str, object]]:
    if isinstance(overrides, Mapping):
        yield from overrides.items()
        return
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"override {text!r} has no '=' -- write key=value, as in train.epochs=3")
        yield key.strip(), parse_yaml(value, f"override {text!r:.60}")


def _assign(tree: dict[str, Any], dotted_key: str, value: object) -> None:
    *sections, key = dotted_key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {dotted_key}: {section!r} is a value, not a section")
    tree[key] = value


def _explain(fault: Mapping[str, Any]) -> str:
    location = [str(part) for part in fault["loc"]]
    dotted = ".".join(location) or "configuration"
    if fault["type"] == "extra_forbidden":
        known = sorted(dict(_leaves(RunConfig(name="", align=AlignConfig()).model_dump())))
        return f"unknown key {dotted}{closest(dotted, known)}"
    got = "" if isinstance(fault["input"], Mapping | BaseModel) else f", got {fault['input']!r:.60}"
    return f"{dotted}: {fault['msg'].removeprefix('Value error, ')}{got}"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
