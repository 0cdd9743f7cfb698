"""The ways to distil, by name, and what each of them reads. Loads no torch, so a search space can check the names."""

METHODS: dict[str, str] = {
    "none": "cross-entropy on the labels",
    "kd": "the teacher's softened logits; several teachers: their mean",
    "label-smoothing": "labels smoothed to the teacher's mean entropy at the temperature",
    "kd-permuted": "the teacher's soft labels with the classes that are not the label permuted, fixed per image",
    "self": "a first student, trained on the labels, teaches a second of its own kind",
    "ban": "born-again networks: generations, each taught by the one before, at temperature 1",
    "at": "attention transfer of the last map",
    "ft": "factor transfer: a paraphraser on the teacher's map, a translator on the student's",
    "feed-parallel": "FEED with several teachers at once, a transformation for each",
    "feed-sequential": "FEED in generations, each taught by the one before",
    "kd-feed": "the softened mean logits and the features of several teachers",
    "ard": "adversarially robust distillation",
    "rslad": "robust soft labels on clean and attacked images",
}

LOGIT_METHODS = frozenset({"kd", "label-smoothing", "kd-permuted", "self", "kd-feed", "ard", "rslad"})
"""Methods that read temperature, alpha and kl_scale."""

FEATURE_METHODS = frozenset({"at", "ft", "feed-parallel", "feed-sequential", "kd-feed"})
"""Methods that compare feature maps and read beta."""

FEED_METHODS = frozenset({"feed-parallel", "feed-sequential", "kd-feed"})
"""Methods with FEED's transformations."""

CHAINED_METHODS = frozenset({"self", "ban", "feed-sequential"})
"""Methods whose teacher is an earlier network of the student's own kind; no teacher of the study is read."""

GENERATION_METHODS = frozenset({"ban", "feed-sequential"})
"""Chained methods with a number of generations to choose; `self` has two."""

ENSEMBLE_METHODS = frozenset({"kd", "kd-permuted", "label-smoothing", "at", "ft", "feed-parallel", "kd-feed"})
"""Methods that may read several teachers at once."""

ATTACKING_METHODS = frozenset({"ard", "rslad"})
"""Methods that attack the student in every update and read `train.adversarial`."""
