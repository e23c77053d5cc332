import torch  # noqa
