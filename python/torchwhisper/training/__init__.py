"""Fine-tuning: the parts of the command `torchwhisper-finetune`.

A run in Python:

    from torchwhisper import load_model, training

    model = load_model("tiny", checkpointing="block")
    utterances = training.read_manifest("train.jsonl", language="en")
    seconds = training.check_audio(utterances, longest=30)
    train = training.Dataset(utterances, seconds, model.dims)
    training.Trainer(model, train, "out", training.TrainingOptions(epochs=2)).run()
"""

from .augment import SpecAugment as SpecAugment
from .batches import Batch as Batch
from .batches import DataOptions as DataOptions
from .batches import Dataset as Dataset
from .distributed import Ranks as Ranks
from .evaluate import Scores as Scores
from .evaluate import evaluate as evaluate
from .evaluate import plain_copy as plain_copy
from .evaluate import score as score
from .labels import Labels as Labels
from .labels import build_labels as build_labels
from .loop import Interrupted as Interrupted
from .loop import Trainer as Trainer
from .loop import TrainingOptions as TrainingOptions
from .loop import TrainingStep as TrainingStep
from .lora import add_lora as add_lora
from .lora import merge_lora as merge_lora
from .loss import IGNORED as IGNORED
from .loss import chunked_cross_entropy as chunked_cross_entropy
from .manifest import ManifestError as ManifestError
from .manifest import Utterance as Utterance
from .manifest import check_audio as check_audio
from .manifest import read_manifest as read_manifest
from .pack import PackOptions as PackOptions
from .recipe import default_rate as default_rate
