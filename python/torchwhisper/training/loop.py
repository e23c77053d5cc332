"""The training loop: steps, evaluations, checkpoints, and an end that loses nothing."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .._save import replacing, save_model
from ..model import Whisper
from . import checkpoint
from .batches import Batch, Dataset, prefetched
from .distributed import Interrupted as Interrupted
from .distributed import RankError, Ranks
from .evaluate import Scores, evaluate, plain_copy
from .loss import IGNORED, chunked_cross_entropy
from .recipe import (
    Schedule,
    clip,
    default_rate,
    default_warmup,
    fastest_precision,
    make_optimizer,
    set_rate,
)


@dataclass(frozen=True)
class TrainingOptions:
    """A run. What is None is chosen by the size of the model or of the data.

    batch_size: windows per device and pass; accumulate: passes per step.
    epochs, steps, minutes: the end of the run, whichever comes first; 3 epochs where none is given. With
        minutes the rate falls with the clock, and no two runs are the same.
    learning_rate, warmup: see `recipe`.
    clip: largest norm of the gradients, 0 for any.
    precision: "fp32", "bf16" for autocast to bfloat16, or "auto" for the faster one on the device.
    lora: rank of adapters to train, 0 for the model itself (see `lora.add_lora`, which the caller calls).
    eval_every, save_every: steps; 0 means at the end of each epoch.
    eval_batch_size: windows decoded at once.
    workers: threads that load recordings.
    """

    batch_size: int = 8
    accumulate: int = 1
    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    learning_rate: float | None = None
    warmup: int | None = None
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    clip: float = 1.0
    precision: str = "fp32"
    lora: int = 0
    eval_every: int = 0
    save_every: int = 0
    eval_batch_size: int = 16
    workers: int = 2
    seed: int = 0
    # What must be the same when a run is resumed, besides what stands here.
    notes: dict[str, Any] = field(default_factory=dict)


class TrainingStep(nn.Module):
    """A model and its loss as one module, which is what DDP and FSDP wrap."""

    def __init__(self, model: Whisper) -> None:
        super().__init__()
        self.model = model

    def forward(self, mel: Tensor, tokens: Tensor, targets: Tensor, normalizer: float) -> Tensor:
        """The loss of a `Batch`, summed over its tokens and divided by `normalizer`."""
        learnt = any(p.requires_grad for p in self.model.encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learnt):
            features = self.model.encoder(mel)
        hidden = self.model.decoder.hidden(tokens, features)
        head = self.model.decoder.token_embedding.weight
        return chunked_cross_entropy(hidden, head, targets, normalizer)


class Trainer:
    """One run of fine-tuning.

    `out` gets log.jsonl, checkpoints/ and model.pt: the weights with the best word error rate on the
    evaluation data, or the last ones where there is none.
    """

    def __init__(
        self,
        model: Whisper,
        train: Dataset,
        out: str,
        options: TrainingOptions | None = None,
        evaluation: Dataset | None = None,
        ranks: Ranks | None = None,
        show: Callable[[str], None] | None = None,
    ) -> None:
        options = options or TrainingOptions()
        if options.epochs is None and options.steps is None and options.minutes is None:
            options = replace(options, epochs=3)
        self.model, self.train, self.evaluation, self.out = model, train, evaluation, out
        self.ranks = ranks or Ranks()
        self.show = show or (lambda line: tqdm.write(line, file=sys.stderr))
        model.to(self.ranks.device).train()
        self.total = _total_steps(train, options, self.ranks.world)
        rate = options.learning_rate or default_rate(model.dims, options.lora > 0)
        warmup = default_warmup(self.total or 0) if options.warmup is None else options.warmup
        self.schedule = Schedule(rate, warmup)
        precision = options.precision
        if precision == "auto":
            precision = fastest_precision(self.ranks.device)
        self.options = replace(options, learning_rate=rate, warmup=warmup, precision=precision)

        blocks = [*model.encoder.blocks, *model.decoder.blocks]
        self.module = self.ranks.spread(TrainingStep(model), blocks)
        self.optimizer = make_optimizer(self.module, rate, options.weight_decay, options.betas, options.eps)
        self.step = 0
        self.best: float | None = None
        self._elapsed, self._since = 0.0, time.monotonic()
        self._clock = 0.0  # seconds of the run at its last step, the same on every rank
        self._stop = 0
        self._saved = self._evaluated = -1  # the step at which it was done last
        self._due = False  # whether an evaluation of this step is still to be finished
        if self.ranks.is_main:
            os.makedirs(out, exist_ok=True)

    # ------------------------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Goes back to the newest checkpoint in `out`; False where there is none.

        Raises:
            ValueError: the run there had other options.
        """
        path = checkpoint.latest(self._checkpoints)
        if path is None:
            return False
        content = checkpoint.read(path)
        theirs, ours = content["settings"], self._settings()
        for name in ours:
            if theirs.get(name) != ours[name]:
                raise ValueError(
                    f"the run in {self.out} was started with {name} = {theirs.get(name)!r}, "
                    f"now it is {ours[name]!r}: give the same options, or another folder"
                )
        checkpoint.restore(content, self.module, self.optimizer, self.ranks)
        self.step, self.best = content["step"], content["best"]
        self._elapsed = content["elapsed"]
        self._evaluated, self._due = content["evaluated"], content["due"]
        self._saved = self.step
        return True

    def run(self) -> None:
        """Trains to the end.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after the step that was under way and a checkpoint.
            RuntimeError: one of the ranks failed to load its recordings, or the loss is not finite.
            ValueError: `out` holds another run.
        """
        if self._saved < 0 and checkpoint.latest(self._checkpoints) is not None:
            raise ValueError(f"{self.out} holds a run already: resume() it, or name another folder")
        if self.ranks.is_main:
            self._tidy()
        self._since = time.monotonic()
        with self._listening(), self._bar() as bar:
            if self._due:
                self._evaluate()
            for epoch, first, windows in self._epochs():
                for batches, position in self._batches(epoch, first, windows):
                    if self._progress() >= 1:
                        break
                    self._train_step(batches, bar)
                    last = position >= len(windows)
                    self._after_step(last)
                if self._progress() >= 1:
                    break
            self._finish()

    # ------------------------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Leaves of a run that was killed what belongs to its last checkpoint."""
        for name in os.listdir(self.out):
            if name.startswith("model.pt.") and name.endswith(".tmp"):
                os.remove(os.path.join(self.out, name))
        log = os.path.join(self.out, "log.jsonl")
        kept = [line for line in _lines(log) if self._has_logged(line)]
        with replacing(log) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(kept)

    def _has_logged(self, line: str) -> bool:
        try:
            row = json.loads(line)
        except ValueError:  # half a line
            return False
        done = self._saved >= 0 and row["step"] <= self.step
        return done and not (self._due and row["step"] == self.step and "wer" in row)

    @property
    def _checkpoints(self) -> str:
        return os.path.join(self.out, "checkpoints")

    def _settings(self) -> dict[str, Any]:
        """What decides the course of a run."""
        free = ("eval_batch_size", "workers", "save_every", "eval_every", "minutes")
        kept = {name: value for name, value in asdict(self.options).items() if name not in free}
        kept |= kept.pop("notes") | {"ranks": self.ranks.world, "utterances": len(self.train.utterances)}
        return cast(dict[str, Any], json.loads(json.dumps(kept)))

    def _seconds(self) -> float:
        return self._elapsed + time.monotonic() - self._since

    def _progress(self) -> float:
        """The done share of the run."""
        done = self.step / self.total if self.total else 0.0
        if self.options.minutes is not None:
            done = max(done, self._clock / (60 * self.options.minutes))
        return done

    def _per_step(self) -> int:
        return self.options.batch_size * self.options.accumulate * self.ranks.world

    def _epochs(self) -> Iterator[tuple[int, int, list[Any]]]:
        """Each epoch with the index of its first window that is still to do, from where the run stands."""
        behind, epoch = self.step, 0
        while True:
            windows = self.train.windows(epoch)
            steps = -(-len(windows) // self._per_step())
            if behind < steps:
                yield epoch, behind * self._per_step(), windows
            behind, epoch = max(0, behind - steps), epoch + 1

    def _batches(
        self, epoch: int, first: int, windows: list[Any]
    ) -> Iterator[tuple[list[Batch | Exception], int]]:
        """This rank's batches of each step, and the index after the step's last window."""
        size, accumulate = self.options.batch_size, self.options.accumulate

        def load(start: int) -> list[Batch | Exception]:
            loaded: list[Batch | Exception] = []
            for i in range(accumulate):
                at = start + (i * self.ranks.world + self.ranks.rank) * size
                chosen = range(at, min(at + size, len(windows)))
                try:
                    seeds = [(epoch, j) for j in chosen]
                    loaded.append(self.train.batch([windows[j] for j in chosen], seeds))
                except Exception as error:  # told to all ranks before the next step
                    loaded.append(error)
            return loaded

        starts = range(first, len(windows), self._per_step())
        jobs = (lambda start=start: (load(start), start + self._per_step()) for start in starts)
        return prefetched(jobs, self.options.workers, ahead=self.options.workers + 1)

    def _train_step(self, loaded: list[Batch | Exception], bar: Any) -> None:
        batches = self._agree(loaded)
        # Draws of stochastic depth and dropout depend on the step alone, so that a resumed run repeats them.
        torch.manual_seed(hash((self.options.seed, self.step, self.ranks.rank)) % (1 << 63))
        n_tokens = self.ranks.sum(sum(int((b.targets != IGNORED).sum()) for b in batches))[0]
        rate = self.schedule.at(self.step, self._progress())
        set_rate(self.optimizer, rate)
        total = torch.zeros((), device=self.ranks.device)
        for i, batch in enumerate(batches):
            with self.ranks.accumulating(self.module, last=i == len(batches) - 1):
                with torch.autocast(
                    self.ranks.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"
                ):
                    # The ranks' gradients are averaged, and are to be summed.
                    loss = self.module(*batch.to(self.ranks.device), max(1.0, n_tokens) / self.ranks.world)
                loss.backward()
                total += loss.detach()
        norm = clip(self.module, self.options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        loss_sum = self.ranks.sum(float(total))[0] / self.ranks.world
        row = {"loss": loss_sum, "rate": rate, "tokens": int(n_tokens), "norm": float(norm)}
        if not (math.isfinite(loss_sum) and math.isfinite(row["norm"])):
            # The weights are of no use any more, those of the last checkpoint are.
            raise RankError(
                f"in step {self.step} the loss is {loss_sum} and the norm of its gradients {row['norm']}: "
                "try a lower rate or a longer warm-up"
            )
        self._log({"step": self.step, **row})
        bar.update(min(1.0, self._progress()) - bar.n)
        bar.set_postfix_str(f"step {self.step}, loss {loss_sum:.3f}, rate {rate:.1e}, {_memory(self.ranks)}")

    def _agree(self, loaded: list[Batch | Exception]) -> list[Batch]:
        """The batches, unless a rank has none or was asked to stop; then all ranks stop together."""
        error = next((item for item in loaded if isinstance(item, Exception)), None)
        failed, stop, clocks = self.ranks.sum(error is not None, self._stop > 0, self._seconds())
        self._clock = clocks / self.ranks.world
        if failed:
            said = self.ranks.gather(None if error is None else f"{error}")
            self._save()
            raise RankError("; ".join(text for text in said if text)) from error
        if stop:
            self._save()
            raise Interrupted(f"stopped after step {self.step}; --resume goes on from there")
        return [item for item in loaded if isinstance(item, Batch)]

    def _after_step(self, end_of_epoch: bool) -> None:
        for every, act in ((self.options.eval_every, self._evaluate), (self.options.save_every, self._save)):
            if (every and self.step % every == 0) or (not every and end_of_epoch):
                act()

    def _finish(self) -> None:
        if self.evaluation is None:
            self._export()
        elif self._evaluated != self.step:
            self._evaluate()
        self._save()

    def _evaluate(self) -> None:
        if self.evaluation is not None and self._evaluated != self.step:
            self._due = True
            try:
                scores = self.scores()
            except (Interrupted, RankError):
                self._save()
                raise
            self._evaluated, self._due = self.step, False
            self._log({"step": self.step, **scores.row()})
            if self.ranks.is_main:
                self.show(
                    f"step {self.step}: WER {scores.wer:.2%} ({scores.wer_normalized:.2%} normalized), "
                    f"CER {scores.cer:.2%} ({scores.cer_normalized:.2%})"
                )
            if self.best is None or scores.wer <= self.best:
                self.best = scores.wer
                self._export()

    def scores(self) -> Scores:
        """Error rates on the evaluation data now."""
        assert self.evaluation is not None
        size, rank = self.options.eval_batch_size, self.options.lora
        return evaluate(self.model, self.evaluation, self.ranks, size, rank, self._between_batches)

    def _between_batches(self) -> None:
        if self._stop:
            raise Interrupted(f"stopped in the evaluation of step {self.step}; --resume goes on from there")

    def _export(self) -> None:
        plain = plain_copy(self.model, self.options.lora)
        if self.ranks.is_main:
            save_model(plain, os.path.join(self.out, "model.pt"))

    def _save(self) -> None:
        extra = {"settings": self._settings(), "best": self.best, "elapsed": self._seconds()}
        extra |= {"evaluated": self._evaluated, "due": self._due}
        if self._saved != self.step:
            self._saved = self.step
            checkpoint.save(self._checkpoints, self.step, self.module, self.optimizer, self.ranks, extra)

    def _log(self, row: dict[str, Any]) -> None:
        if self.ranks.is_main:
            with open(os.path.join(self.out, "log.jsonl"), "a", encoding="utf-8") as file:
                file.write(json.dumps(row | {"seconds": round(self._seconds(), 3)}) + "\n")

    def _bar(self) -> Any:
        form = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
        return tqdm(total=1.0, bar_format=form, disable=not self.ranks.is_main, dynamic_ncols=True)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step; the second Ctrl-C at once."""

        def ask(number: int, _: Any) -> None:
            self._stop += 1
            if self._stop > 1 and number == signal.SIGINT:
                raise KeyboardInterrupt

        before = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, ask)
        except ValueError:  # not in the main thread
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _total_steps(train: Dataset, options: TrainingOptions, world: int) -> int | None:
    """Steps of the run, None where only the clock ends it."""
    per_step = options.batch_size * options.accumulate * world
    totals = [] if options.steps is None else [options.steps]
    if options.epochs is not None:
        totals.append(sum(-(-len(train.windows(epoch)) // per_step) for epoch in range(options.epochs)))
    return min(totals) if totals else None


def _lines(path: str) -> list[str]:
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readlines()


def _memory(ranks: Ranks) -> str:
    if ranks.device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(ranks.device) / 2**30:.1f} GiB"
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            peak = next(line for line in status if line.startswith("VmHWM:"))
        return f"{int(peak.split()[1]) / 2**20:.1f} GiB"
    except OSError:  # not Linux
        return ""
