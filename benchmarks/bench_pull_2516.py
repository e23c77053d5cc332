"""openai/whisper's pull request 2516, change by change, against its claim of 20 %.

Its changes are put on the installed openai-whisper: parameters and the mask made by zeros and full instead
of empty, every block called through torch.utils.checkpoint, and a loader that checks a checksum and reads
the file into memory. Each variant has a process of its own; loading and transcribing are timed apart.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bars
import common
import recordings
import workers

_CLAIM = 20  # per cent
_LOADS = 3  # in one round; the fastest counts


def zeros_and_full() -> None:
    """The decoder's positions start at zero and its mask is filled in one step."""
    import torch
    import whisper.model

    class TextDecoder(whisper.model.TextDecoder):
        def __init__(self, n_vocab: int, n_ctx: int, n_state: int, n_head: int, n_layer: int) -> None:
            super().__init__(n_vocab, n_ctx, n_state, n_head, n_layer)
            self.positional_embedding = torch.nn.Parameter(torch.zeros(n_ctx, n_state))
            mask = torch.full((n_ctx, n_ctx), float("-inf")).triu_(1)
            self.register_buffer("mask", mask, persistent=False)

    whisper.model.TextDecoder = TextDecoder


def checkpoint_calls() -> None:
    """Blocks run through torch.utils.checkpoint, in inference too."""
    import whisper.model
    from torch.utils.checkpoint import checkpoint

    class ResidualAttentionBlock(whisper.model.ResidualAttentionBlock):
        def forward(self, *inputs: Any, **options: Any) -> Any:
            return checkpoint(super().forward, *inputs, use_reentrant=False, **options)

    whisper.model.ResidualAttentionBlock = ResidualAttentionBlock


def loader() -> None:
    """The file is read whole and its checksum taken before it is unpacked."""
    import whisper

    load = whisper.load_model

    def checked(name: str, **options: Any) -> Any:
        hashlib.sha256(Path(name).read_bytes()).hexdigest()
        return load(name, in_memory=True, **options)

    whisper.load_model = checked


CHANGES: dict[str, Callable[[], None]] = {
    "zeros and full": zeros_and_full,
    "checkpoint calls": checkpoint_calls,
    "loader": loader,
}
VARIANTS = {"as released": (), **{name: (name,) for name in CHANGES}, "all three": tuple(CHANGES)}
SEARCHES: dict[str, int | None] = {"greedy": None, "beam 5": 5}


def open_run(job: dict[str, Any]) -> workers.Run:
    """In a worker: loads, transcribes, and gives the text and the seconds of both."""
    import torch
    import whisper

    torch.set_num_threads(job["threads"])
    for name in VARIANTS[job["engine"]]:
        CHANGES[name]()

    def run(audio: dict[str, str]) -> dict[str, Any]:
        loading = []
        for _ in range(_LOADS):
            start = time.perf_counter()
            model = whisper.load_model(job["model"], device="cpu")
            loading.append(time.perf_counter() - start)
        start = time.perf_counter()
        result = whisper.transcribe(
            model,
            audio["path"],
            language=audio["language"],
            beam_size=job["beam"],
            temperature=0.0,
            fp16=False,
        )
        return {
            "load": min(loading),
            "transcribe": time.perf_counter() - start,
            "text": result["text"],
        }

    return run


def spreads(measured: dict[str, workers.Measured], what: str) -> dict[str, common.Spread]:
    return {name: common.Spread.of([value[what] for value in one.values]) for name, one in measured.items()}


def gain(times: dict[str, common.Spread], name: str) -> str:
    """How much faster than as released."""
    if "as released" not in times:
        return "-"
    return f"{100 * (times['as released'].median / times[name].median - 1):+.1f} %"


def main() -> None:
    if workers.serve(open_run):
        return
    parser = common.arguments(__doc__)
    parser.add_argument("--model", type=Path, default=common.default_model(), help="an OpenAI checkpoint")
    parser.add_argument("--audio", type=Path, default=common.default_audio()[0])
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    recording = recordings.recording(options.audio)
    request = {"path": str(recording.path), "language": recording.language}
    data, rows, groups = {}, [], {}
    for search in options.searches:
        common_job = {"model": str(options.model), "threads": options.threads, "beam": SEARCHES[search]}
        jobs = [{"engine": name, **common_job} for name in options.variants]
        with workers.Workers(workers.script_of(__file__), jobs) as running:
            measured = running.measure(options.rounds, request)
        load, transcribe = spreads(measured, "load"), spreads(measured, "transcribe")
        data[search] = {"load": load, "transcribe": transcribe}
        groups[search] = transcribe
        for name, one in measured.items():
            same = one.value["text"] == next(iter(measured.values())).value["text"]
            rows.append(
                [
                    *(search, name, transcribe[name].text(), gain(transcribe, name)),
                    *(load[name].text(3), gain(load, name), "yes" if same else "no"),
                ]
            )
    head = ["search", "variant", "transcribe, s (min / median / max)", "gain", "load, s", "gain", "same text"]
    title = f"Pull request 2516: {options.audio.name} with {options.model.name}; claimed: up to {_CLAIM} %"
    common.write_results("pull_2516", title, options, data, common.markdown_table(head, rows))
    bars.draw(groups, "Pull request 2516", "seconds", options.results / "pull_2516.svg")


if __name__ == "__main__":
    main()
