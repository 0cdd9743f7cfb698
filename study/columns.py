"""The columns of the tables that a study leaves behind, and which of them hold text, bits or whole numbers."""

_COUNTS = ("parameter_count", "steps", "evaluations", "n", "n_adversarial", "solve_failures")
_MEASURES = ("nfe", "training_seconds", "step_size", "agreement", "teacher_entropy", "ensemble_accuracy")
METRICS = ("accuracy", "adversarial_accuracy", *_MEASURES, *_COUNTS)
_ENDS = ("state", "reason", "infeasible")
TRIAL_COLUMNS = ("trial", *_ENDS, *METRICS, "seed", "teacher", "on_front", "seconds", "started", "settings")
HISTORY_COLUMNS = ("job", "trial", "epoch", "step", "loss", "train_accuracy", "accuracy", "nfe", "seconds")
FRONT_COLUMNS = ("trial", "accuracy", "n", "adversarial_accuracy", "survivors", "n_adversarial", "epsilon", "nfe")
RATES = ("clean_accuracy", "robust_accuracy", "robust_accuracy_of_correct")
_MODEL = ("model", "kind", "trial", "norm", "epsilon", "split")
_TALLIES = ("n", "clean_correct", "survivors", "shards", "shards_expected")
ROBUSTNESS_COLUMNS = (*_MODEL, *RATES, "low", "high", "verdict", "reasons", "nfe", "attacks", *_TALLIES)
TEXT = {*_ENDS, *_MODEL[:2], "teacher", "started", "settings", "job", "norm", "split", "attacks", "verdict", "reasons"}
BITS = {"on_front", "attacked"}
WHOLE = {"trial", "epoch", "step", "seed", *_COUNTS, *_TALLIES}
