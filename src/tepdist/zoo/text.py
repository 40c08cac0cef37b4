"""English text that ships with Python, as bytes to train on.

The topics of Python's own `help()`: half a megabyte, which grows with its version.
"""

import functools
import pydoc_data.topics

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
TRAIN_SHARE = 0.9
VOCAB = 256


@functools.cache
def corpus() -> Bytes:
    """All topics in alphabetical order, UTF-8; [num_bytes]."""
    topics = pydoc_data.topics.topics
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def train_split() -> Bytes:
    """The first nine tenths."""
    return corpus()[: int(len(corpus()) * TRAIN_SHARE)]


def held_out_split() -> Bytes:
    """The rest."""
    return corpus()[len(train_split()) :]


def sample(seed: int, batch: int, seq: int) -> dict[str, npt.NDArray[np.int32]]:
    """Random windows of the train split, and the byte after each of theirs.

    Args:
        seed: Equal seeds give equal windows.
        batch: Windows.
        seq: Bytes per window.

    Returns:
        ``tokens`` and ``targets``, each [batch, seq], as `zoo:gpt` takes them.
    """
    text = train_split()
    starts = np.random.default_rng(seed).integers(len(text) - seq, size=batch)
    windows = text[starts[:, None] + np.arange(seq + 1)].astype(np.int32)
    return {"tokens": windows[:, :-1], "targets": windows[:, 1:]}
