# ruff: noqa: E501  (a table of cases reads best with one case in a line)
"""Every rule has a bad space: the message, its place, the caret and the suggestion; and fuzzing never ends in a traceback."""

import random
import re
import time
from pathlib import Path

import pytest

from study.errors import SpaceError
from study.space.reader import read_space

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"
OK = "space: {alpha: {float: [0, 1]}}\n"


def complaint(tmp_path: Path, content: str | bytes, *overrides: str) -> str:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SpaceError) as caught:
        read_space(path, overrides)
    assert caught.value.exit_code == 3
    return str(caught.value).replace(str(tmp_path) + "/", "")


def space_with(entries: str) -> str:
    return "space:\n" + "".join(f"  {line}\n" for line in entries.split("\n"))


CASES: dict[str, tuple[str, str, str]] = {
    # name: (file, place, piece of the message)
    "unknown section": (OK + "budgett: {trials: 3}\n", "2:1", "'budgett' is not a key of a search space.*did you mean 'budget'"),
    "unknown key": (OK + "budget: {trails: 3}\n", "2:10", "'trails' is not a key of `budget`.*did you mean 'trials'"),
    "key of another section": (OK + "train: {trials: 3}\n", "2:9", "'trials' is not a key of `train`.*did you mean 'budget.trials'"),
    "strange key": (OK + "budget: {zzz: 3}\n", "2:10", "which knows trials, concurrency, max_failed_trials"),
    "unknown nested key": (
        OK + "teachers: [{train: {epoch: 3}}]\n", "2:21", "'epoch' is not a key of `teachers.0.train`.*did you mean 'epochs'"
    ),
    "duplicate section": (OK + "train: {epochs: 1}\ntrain: {epochs: 2}\n", "3:1", r"`train` is given twice \(first in line 2\)"),
    "duplicate key": (OK + "train: {epochs: 1, epochs: 2}\n", "2:20", "`epochs` is given twice"),
    "duplicate parameter": (space_with("alpha: 1\nalpha: {float: [0, 1]}"), "3:3", "`alpha` is given twice"),
    "section of later": (OK + "lanes: []\n", "2:1", "`lanes` in a search space is not available in this version"),
    "constraints as a list": (OK + "constraints: []\n", "2:14", "`constraints` must be a mapping"),
    "constraint of nothing": (OK + "constraints: {nfe: 0}\n", "2:20", "`constraints.nfe` must be"),
    "unknown constraint": (OK + "constraints: {nfes: 3}\n", "2:15", "did you mean 'nfe'"),
    "rungs without a rule": (OK + "early_stopping: {eta: 3}\n", "2:18", "`early_stopping.eta` has no effect on none; remove it or choose mo-asha"),
    "one objective of two": (OK + "early_stopping: {name: mo-asha, objective: accuracy}\n", "2:33", "has no effect on mo-asha; remove it or choose asha or median"),
    "rung behind the end": (OK + "early_stopping: {name: asha, rungs: [2, 60]}\n", "2:30", "must lie before the end of 60 epochs, but got 60"),
    "eta of one": (OK + "early_stopping: {name: asha, eta: 1}\n", "2:35", "`early_stopping.eta` must be a number > 1"),
    "warm start from a number": (OK + "warm_start: {study: 3}\n", "2:21", "`warm_start.study` must be"),
    "tier unknown": (OK + "robustness: {tier: fuller}\n", "2:20", "must be one of screen, standard, full, adaptive"),
    "teacher of later": (OK + "teachers: [{arch: in-resnet110}]\n", "2:19", "'in-resnet110' is not available in this version; choose one of resnet20"),
    "objective of later": (OK + "objectives: {nfe: minimize}\n", "2:14", "`nfe` in `objectives` is not available in this version"),
    "derive": (space_with("rtol: {float: [0.1, 1]}\natol: {derive: rtol}"), "3:10", "`space.atol.derive` is not available in this version"),
    "wrong direction": (OK + "objectives: {accuracy: minimize}\n", "2:24", "`objectives.accuracy` must be maximize, but got 'minimize'"),
    "section is a number": (OK + "budget: 3\n", "2:9", "`budget` must be a mapping of keys to values, but got 3"),
    "section is a list": (OK + "budget: [3]\n", "2:9", "`budget` must be a mapping of keys to values, but got a list"),
    "adversarial is a number": (OK + "train: {adversarial: 3}\n", "2:22", "`train.adversarial` must be a mapping"),
    "adversarial without epsilon": (OK + "train: {adversarial: {steps: 3}}\n", "2:9", "`train.adversarial.epsilon` is missing"),
    "text for a number": (OK + "train: {epochs: many}\n", "2:17", r"`train.epochs` must be a number, but got 'many' \(text\)"),
    "quoted number": (OK + "train: {learning_rate: '1e-3'}\n", "2:24", r"but got '1e-3' \(text\); remove the quotes"),
    "truth value for a number": (OK + "train: {epochs: true}\n", "2:17", r"must be a number, but got true \(a truth value\)"),
    "nothing for a number": (OK + "train: {epochs: }\n", "2:16", "must be a number, but got nothing"),
    "list for a number": (OK + "train: {epochs: [3]}\n", "2:17", "must be a number, but got a list"),
    "no for a flag": (OK + "data: {shuffle: no}\n", "2:17", r"must be true or false, but got 'no' \(text\).*did you mean 'false'"),
    "yes for a flag": (OK + "train: {augment: yes}\n", "2:18", r"must be true or false, but got 'yes' \(text\).*did you mean 'true'"),
    "no for a number": (OK + "train: {clip: no}\n", "2:15", r"`train.clip` must be a number, but got 'no' \(text\)"),
    "number for text": (OK + "study: {name: 2024}\n", "2:15", "must be letters.*but got 2024; put quotes"),
    "bad name": (OK + "study: {name: a/b}\n", "2:15", "`study.name` must be letters.*but got 'a/b'"),
    "fraction of a whole": (OK + "train: {epochs: 1.5}\n", "2:17", "must be a whole number >= 1 and <= 1e.06, but got 1.5"),
    "out of bounds": (OK + "distill: {alpha: 1.5}\n", "2:18", "`distill.alpha` must be a number >= 0 and <= 1, but got 1.5"),
    "zero horizon": (OK + "student: {horizon: 0}\n", "2:20", "`student.horizon` must be a number > 0"),
    "nan": (OK + "train: {learning_rate: .nan}\n", "2:24", "must be a finite number, but got nan"),
    "infinite": (OK + "train: {learning_rate: -.inf}\n", "2:24", "must be a finite number, but got -inf"),
    "overflow": (OK + "train: {learning_rate: 1e999}\n", "2:24", "must be a finite number, but got inf"),
    "division by zero": (OK + "search: {epsilon: 1/0}\n", "2:19", "'1/0', which divides by zero"),
    "huge number": (OK + f"study: {{seed: {'9' * 5000}}}\n", "2:15", "must be a number, but got '9999"),
    "unknown solver": (OK + "student: {solver: rk45}\n", "2:19", "`student.solver` must be one of euler,.*but got 'rk45'.*did you mean 'rk4'"),
    "unknown data": (OK + "data: {name: cifar}\n", "2:14", "did you mean 'cifar10'"),
    "unknown word": (OK + "budget: {concurrency: atuo}\n", "2:23", "a whole number >= 1 and <= 1e.06 or 'auto', but got 'atuo'.*did you mean 'auto'"),
    "one and a half GPUs": (OK + "resources: {gpus: 1.5}\n", "2:19", "whole above 1 or 'auto', but got 1.5"),
    "small image": (OK + "data: {image_size: 4}\n", "2:20", "`data.image_size` must be a whole number >= 8"),
    "no epsilons": (OK + "robustness: {epsilons: []}\n", "2:24", r"must be a list of numbers such as \[1/16, 0.1\], or 'auto', but got \[\]"),
    "epsilon twice": (OK + "robustness: {epsilons: [1/16, 0.0625]}\n", "2:24", "must be different numbers, but 0.0625 stands there twice"),
    "epsilon of zero": (OK + "robustness: {epsilons: [0]}\n", "2:24", "must be a number > 0"),
    "large epsilon": (OK + "search: {epsilon: 2}\n", "2:10", r"must be <= 1 under linf \(images are in \[0, 1\]\), but got 2"),
    "epsilons of zero and less": (OK + "robustness: {epsilons: [-0.1, 0.1]}\n", "2:24", "`robustness.epsilons` must be a number > 0 and <= 1000 or 'auto', but got -0.1"),
    "search at zero": (OK + "search: {epsilon: 0}\n", "2:19", "`search.epsilon` must be a number > 0 and <= 1000 or 'auto', but got 0"),
    "search below zero": (OK + "search: {epsilon: -1/16}\n", "2:19", "must be a number > 0 and <= 1000 or 'auto', but got -1/16"),
    "search at nan": (OK + "search: {epsilon: .nan}\n", "2:19", "`search.epsilon` must be a finite number, but got nan"),
    "search at infinity": (OK + "search: {epsilon: .inf}\n", "2:19", "must be a finite number, but got inf"),
    "search at a word": (OK + "search: {epsilon: atuo}\n", "2:19", "'auto', but got 'atuo' .text.*did you mean 'auto'"),
    "search at a list": (OK + "search: {epsilon: [auto]}\n", "2:19", "must be a number > 0 and <= 1000 or 'auto', but got a list"),
    "search beyond the space of numbers": (OK + "search: {epsilon: 1001, norm: l2}\n", "2:19", "must be a number > 0 and <= 1000"),
    "epsilons at nan": (OK + "robustness: {epsilons: [.nan]}\n", "2:24", "must be a finite number, but got nan"),
    "epsilons at a word": (OK + "robustness: {epsilons: [small]}\n", "2:24", "must be a number > 0 and <= 1000 or 'auto', but got 'small'"),
    "epsilons are a word": (OK + "robustness: {epsilons: atuo}\n", "2:24", r"list of numbers such as \[1/16, 0.1\], or 'auto', but got 'atuo'.*did you mean 'auto'"),
    "epsilons are a number": (OK + "robustness: {epsilons: 0.1}\n", "2:24", r"list of numbers such as \[1/16, 0.1\], or 'auto', but got 0.1"),
    "epsilons in a list of lists": (OK + "robustness: {epsilons: [[auto]]}\n", "2:24", "or 'auto', but got a list"),
    "auto twice": (OK + "robustness: {epsilons: [auto, 0.1, auto]}\n", "2:24", "must be different numbers, but auto stands there twice"),
    "large epsilons": (OK + "robustness: {epsilons: [auto, 2, 0.1]}\n", "2:14", r"`robustness.epsilons` must be <= 1 under linf .*, but got 2"),
    "large epsilon as a share of 255": (OK + "search: {epsilon: 8, norm: linf}\n", "2:10", r"must be <= 1 under linf .images are in \[0, 1\]., but got 8"),
    "unknown norm": (OK + "search: {norm: l1}\n", "2:16", "`search.norm` must be one of linf, l2, but got 'l1' .text"),
    "unknown norm on test": (OK + "robustness: {norm: L2}\n", "2:20", "`robustness.norm` must be one of linf, l2, but got 'L2' .text"),
    "no check images": (OK + "robustness: {check_images: 0}\n", "2:28", "`robustness.check_images` must be a whole number >= 1 and <= 1e.08 or 'all', but got 0"),
    "few replicates": (OK + "robustness: {replicates: -1}\n", "2:26", "`robustness.replicates` must be a whole number >= 0 and <= 1000, but got -1"),
    "half a replicate": (OK + "robustness: {replicates: 0.5}\n", "2:26", "must be a whole number >= 0 and <= 1000, but got 0.5"),
    "few random students": (OK + "robustness: {random_students: -2}\n", "2:31", "`robustness.random_students` must be a whole number >= 0"),
    "no images on test": (OK + "robustness: {images: 0}\n", "2:22", "`robustness.images` must be a whole number >= 1"),
    "no images of the search": (OK + "search: {images: none}\n", "2:18", "must be a whole number >= 1 and <= 1e.08 or 'all', but got 'none'"),
    "controls are words": (OK + "robustness: {controls: off}\n", "2:24", "must be true or false, but got 'off' .text.*did you mean 'false'"),
    "racing is a number": (OK + "robustness: {racing: 1}\n", "2:22", "`robustness.racing` must be true or false, but got 1"),
    "teachers no list": (OK + "teachers: {arch: resnet20}\n", "2:11", "`teachers` must be a list such as"),
    "teachers empty": (OK + "teachers: []\n", "2:11", r"`teachers` must be a list such as .* but got \[\]"),
    "teacher is text": (OK + "teachers: [resnet20]\n", "2:12", "`teachers.0` must be a mapping"),
    "teacher is nothing": (OK + "teachers: [null]\n", "2:12", "`teachers.0` must be a mapping such as {arch: resnet20}, but got nothing"),
    "unknown teacher": (OK + "teachers: [{arch: resnet21}]\n", "2:19", "`teachers.0.arch` must be one of.*did you mean 'resnet20"),
    "trained checkpoint": (OK + "teachers: [{checkpoint: a, train: {epochs: 1}}]\n", "2:28", "has no effect on a loaded checkpoint"),
    "trained_on without": (OK + "teachers: [{trained_on: cifar10}]\n", "2:13", "describes a checkpoint, and none is given"),
    "two teachers": (OK + "teachers: [{}, {arch: resnet32}]\n", "2:1", r"lists 2, but only the first.*add teacher: {choice: \[0, 1\]}"),
    "no such teacher": (space_with("teacher: {choice: [0, 1]}"), "2:3", "`space.teacher` goes up to 1, but `teachers` lists 1"),
    "startup of random": (OK + "sampler: {name: random, startup_trials: 3}\n", "2:25", "has no effect on random"),
    "continuous grid": (OK + "sampler: {name: grid}\n", "1:9", "a grid needs finitely many values, but `alpha` is a float from 0 to 1"),
    "no space": ("study: {name: a}\n", "1:1", "`space` must name at least one parameter"),
    "empty space": ("study: {name: a}\nspace:\n", "2:1", "`space` must name at least one parameter"),
    "space is a list": ("space: [alpha]\n", "1:8", "`space` must be a mapping of parameters to ranges, but got a list"),
    "unknown parameter": (space_with("temprature: {float: [1, 20]}"), "2:3", "'temprature' is not a key of `space`.*did you mean 'temperature'"),
    "bare list": (space_with("alpha: [0, 1]"), "2:10", "`space.alpha` is a bare list; say what kind"),
    "bad bare value": (space_with("solver: rk5"), "2:11", "`space.solver` must be one of.*did you mean 'rk4'"),
    "no kind": (space_with("alpha: {log: true}"), "2:10", "`space.alpha` must say exactly one of float, int, choice, but says none"),
    "two kinds": (space_with("alpha: {float: [0, 1], choice: [0]}"), "2:10", "but says float and choice"),
    "unknown kind": (space_with("alpha: {flaot: [0, 1]}"), "2:11", "'flaot' is not a key of `space.alpha`.*did you mean 'float'"),
    "reversed": (space_with("alpha: {float: [1, 0]}"), "2:18", r"must be \[low, high\] with low < high, but got \[1, 0\].*did you mean '\[0, 1\]'"),
    "empty range": (space_with("alpha: {float: [1, 1]}"), "2:18", "with low < high.*did you mean 'alpha: 1'"),
    "three ends": (space_with("alpha: {float: [0, 0.5, 1]}"), "2:18", r"must be two numbers \[low, high\], but got a list of 3"),
    "one number": (space_with("alpha: {float: 1}"), "2:18", r"must be two numbers \[low, high\], but got 1"),
    "text end": (space_with("alpha: {float: [low, 1]}"), "2:19", "must be a number, but got 'low'"),
    "null end": (space_with("clip: {float: [null, 1]}"), "2:18", "must have numbers for its ends, but got nothing"),
    "end out of bounds": (space_with("alpha: {float: [0, 2]}"), "2:22", "`space.alpha.float` must be a number >= 0 and <= 1"),
    "float for a whole": (space_with("epochs: {float: [1, 9]}"), "2:12", "`epochs` is a whole number; use int.*did you mean 'int'"),
    "int with fractions": (space_with("horizon: {int: [0.5, 2]}"), "2:19", "must have whole numbers for its ends, but got 0.5"),
    "range of names": (space_with("norm: {int: [0, 1]}"), "2:10", "cannot be a range: `norm` is no number; use choice"),
    "log from zero": (space_with("alpha: {float: [0, 1], log: true}"), "2:26", "needs low > 0, but got low = 0"),
    "log is text": (space_with("alpha: {float: [0.1, 1], log: yes}"), "2:33", "`space.alpha.log` must be true or false.*did you mean 'true'"),
    "log of a choice": (space_with("alpha: {choice: [0, 1], log: true}"), "2:27", "goes with float or int, not with choice"),
    "step and log": (space_with("epochs: {int: [1, 9], log: true, step: 2}"), "2:36", "and `log` exclude each other"),
    "step past the end": (space_with("epochs: {int: [1, 8], step: 2}"), "2:31", "must lead from 1 to 8 in whole steps, but got 2"),
    "step of zero": (space_with("epochs: {int: [1, 8], step: 0}"), "2:31", "`space.epochs.step` must be a whole number > 0"),
    "empty choice": (space_with("alpha: {choice: []}"), "2:19", "must be a list of at least one value, but got an empty list"),
    "choice of text": (space_with("alpha: {choice: a}"), "2:19", "must be a list of at least one value, but got 'a'"),
    "choice twice": (space_with("alpha: {choice: [1/4, 0.25]}"), "2:19", "holds 0.25 twice"),
    "bad choice": (space_with("solver: {choice: [rk4, rk5]}"), "2:26", "must be one of.*but got 'rk5'.*did you mean 'rk4'"),
    "null steps": (space_with("steps: {choice: [null, 4]}"), "2:19", "cannot hold null"),
    "sampled adversarial": (space_with("adversarial: {choice: [null]}"), "2:3", "`space.adversarial` can only be fixed"),
    "fixed adversarial": (space_with("adversarial: {epsilon: 3}\nalpha: {float: [0, 1]}"), "2:26", "`space.adversarial.epsilon` must be a number"),
    "adversarial twice": ("train: {adversarial: null}\n" + space_with("adversarial: {epsilon: 0.1}\nalpha: 1"), "", ""),
    "given in both": ("train: {epochs: 3}\n" + space_with("epochs: {int: [1, 9]}"), "3:3", "stands under `space` and under `train`"),
    "when is a list": (space_with("solver: {choice: [rk4]}\nrtol: {float: [0.1, 1], when: [solver]}"), "3:33", "`space.rtol.when` must be a mapping"),
    "when is empty": (space_with("solver: {choice: [rk4]}\nalpha: {float: [0.1, 1], when: }"), "3:33", "must be a mapping such as .* but got nothing"),
    "when unknown name": (space_with("solver: {choice: [rk4, dopri5]}\nalpha: {float: [0, 1], when: {solvr: [rk4]}}"), "3:33", "does not stand under `space`.*did you mean 'solver'"),
    "when of a section": ("student: {solver: rk4}\n" + space_with("alpha: {float: [0, 1], when: {solver: [rk4]}}"), "3:33", "it has one value in `student`"),
    "when of a range": (space_with("horizon: {float: [1, 2]}\nalpha: {float: [0, 1], when: {horizon: [1]}}"), "3:33", "can only look at a choice, but `horizon` is float from 1 to 2"),
    "when unknown value": (space_with("solver: {choice: [rk4, euler]}\nalpha: {float: [0, 1], when: {solver: [rk44]}}"), "3:42", "names a value that does not exist.*did you mean 'rk4'"),
    "when value not offered": (space_with("solver: {choice: [rk4, euler]}\nalpha: {float: [0, 1], when: {solver: [heun]}}"), "3:42", "names 'heun' .text., but `solver` is one of 'rk4', 'euler'"),
    "when without values": (space_with("solver: {choice: [rk4, euler]}\nalpha: {float: [0, 1], when: {solver: []}}"), "3:41", "can never hold: the list of values is empty"),
    "when fixed otherwise": (space_with("solver: rk4\nalpha: {float: [0, 1], when: {solver: [euler]}}"), "3:26", "`space.alpha` can never be active: `solver` is fixed to 'rk4'"),
    "unsatisfiable chain": (
        space_with("arch: {choice: [odenet-stem, odenet-raw]}\nnorm: {choice: [group, none], when: {arch: [odenet-raw]}}\n"
                   "alpha: {float: [0, 1], when: {norm: [none], arch: [odenet-stem]}}"),
        "4:26", "`space.alpha` can never be active: no value of `arch` is left",
    ),
    "circle of one": (space_with("norm: {choice: [group, none], when: {norm: [group]}}"), "2:33", "the conditions go in a circle: norm -> norm"),
    "circle of two": (
        space_with("norm: {choice: [group, none], when: {time: [none]}}\ntime: {choice: [channel, none], when: {norm: [none]}}"),
        "2:33", "the conditions go in a circle: norm -> time -> norm",
    ),
    "too many branches": (
        space_with("\n".join(f"{key}: {{choice: {list(range(1, 30))}}}" for key in ("channels", "blocks", "batch_size"))
                   + "\nevaluations: {choice: [4, 8], when: {channels: [1%s], blocks: [1%s], batch_size: [1%s]}}" % ((", 2" + "".join(f", {i}" for i in range(3, 30)),) * 3)),
        "1:1", "more than 20000 combinations",
    ),
    "two discretisations": ("student: {steps: 4, evaluations: 8}\n" + OK, "1:21", "rk4 gets steps and evaluations; give exactly one"),
    "two in space": (space_with("steps: {int: [1, 4]}\nevaluations: {choice: [4]}"), "3:3", "rk4 gets steps and evaluations"),
    "none for one solver": (
        space_with("solver: {choice: [euler, rk4]}\nsteps: {int: [1, 4], when: {solver: [rk4]}}"), "2:3", "euler gets none of steps, step_size, evaluations"
    ),
    "adaptive with steps": ("student: {solver: dopri5, steps: 4}\n" + OK, "1:27", "`steps` is given for dopri5, an adaptive solver"),
    "adaptive sampled with steps": (
        space_with("solver: {choice: [euler, dopri5]}\nsteps: {int: [1, 4]}"), "3:3", r"`steps` is given for dopri5, an adaptive.*add when: {solver: \[euler\]}"
    ),
    "fixed with rtol": ("student: {solver: rk4, rtol: 0.1}\n" + OK, "1:24", "`rtol` has no effect where solver is rk4; remove it, or choose solver from dopri5"),
    "fixed sampled with rtol": (space_with("solver: {choice: [rk4, bosh3]}\nrtol: {float: [0.1, 1]}"), "3:3", r"add when: {solver: \[bosh3\]}"),
    "momentum of adamw": (space_with("momentum: {float: [0, 0.9]}"), "2:3", "`momentum` has no effect where optimizer is adamw"),
    "temperature without kd": ("distill: {method: none}\n" + space_with("temperature: {float: [1, 9]}"), "3:3", "`temperature` has no effect where method is none"),
    "temperature at alpha 0": (space_with("alpha: 0\ntemperature: {float: [1, 9]}"), "3:3", "`temperature` has no effect where alpha is 0.0; remove it"),
    "not divisible": (space_with("evaluations: {choice: [8, 10]}"), "2:3", "rk4 needs a multiple of its 4 stages, but got 10 evaluations"),
    "fewer than stages": (space_with("evaluations: {choice: [2, 4]}"), "2:3", "rk4 needs a multiple of its 4 stages, but got 2 evaluations"),
    "range not divisible": (space_with("evaluations: {int: [4, 16]}"), "2:3", "but got 5 evaluations"),
    "step not divisible": (space_with("evaluations: {int: [4, 16], step: 6}"), "2:3", "but got 10 evaluations"),
    "corner not divisible": (
        space_with("solver: {choice: [euler, heun, rk4]}\nevaluations: {choice: [3, 4], when: {solver: [euler, heun]}}\nsteps: {int: [1, 2], when: {solver: [rk4]}}"),
        "3:3", "heun needs a multiple of its 2 stages, but got 3 evaluations",
    ),
    "section not divisible": ("student: {evaluations: 6}\n" + OK, "1:11", "rk4 needs a multiple of its 4 stages, but got 6"),
    "tiny steps": (space_with("step_size: {float: [1e-9, 1]}"), "2:3", "makes more than 10000 steps"),
    "no adjoint": ("student: {solver: rk4_classic, gradient: adjoint}\n" + OK, "1:32", "rk4_classic has no adjoint"),
    "anchors no list": (OK + "anchors: {alpha: 1}\n", "2:10", "`anchors` must be a list of points"),
    "anchor no mapping": (OK + "anchors: [1]\n", "2:11", "`anchors.0` must map parameters to values, but got 1"),
    "anchor outside": (OK.replace("1", "0.5") + "anchors: [{alpha: 0.9}]\n", "2:19", "lies outside the space: `alpha` is float from 0 to 0.5, but got 0.9"),
    "anchor text": (OK + "anchors: [{alpha: high}]\n", "2:19", "`anchors.0.alpha` must be a number, but got 'high'"),
    "anchor choice": (space_with("solver: {choice: [euler, rk4]}") + "anchors: [{solver: heun}]\n", "3:20", "`solver` is one of 'euler', 'rk4'"),
    "anchor unknown": (OK + "anchors: [{alfa: 1}]\n", "2:12", "names 'alfa', which does not stand under `space`.*did you mean 'alpha'"),
    "anchor of a section": (OK + "anchors: [{alpha: 1, channels: 8}]\n", "2:22", "is no parameter here: `channels` has one value, in `student`"),
    "anchor incomplete": (space_with("alpha: {float: [0, 1]}\nhorizon: {float: [1, 2]}") + "anchors: [{alpha: 1}]\n", "4:11", r"`anchors.0` lacks `horizon` \(float from 1 to 2\)"),
    "anchor inactive": (
        space_with("solver: {choice: [rk4, bosh3]}\nrtol: {float: [0.1, 1], when: {solver: [bosh3]}}") + "anchors: [{solver: rk4, rtol: 0.5}]\n",
        "4:25", r"`anchors.0.rtol` is not active at this point \(when {solver: \[bosh3\]}\)",
    ),
    "anchor twice": (OK + "anchors: [{alpha: 1}, {alpha: 1.0}]\n", "2:23", "`anchors.1` is the same point as an earlier anchor"),
    "tab": ("space:\n\talpha: 1\n", "2:1", "a tab stands where YAML wants spaces"),
    "broken flow": (OK + "train: {epochs: [1}\n", "2:19", "broken YAML"),
    "unclosed": (OK + "train: {epochs: 1\n", "3:1", "broken YAML while parsing a flow mapping"),
    "bad indent": ("space:\n  alpha: 1\n beta: 2\n", "3:2", "broken YAML"),
    "impossible escape": ('study: {name: "\\UFFFFFFFF"}\n', "1:9", "is not readable as YAML"),
    "control character": (OK + "study: {name: a\x00}\n", "2:16", "holds a character that YAML does not allow"),
    "escaped control": (OK + 'data: {root: "a\\0"}\n', "2:14", r"holds a control character: 'a\\x00'"),
    "lone surrogate": (OK + 'data: {root: "\\uD800"}\n', "2:14", "holds a control character"),
    "empty": ("", "1:1", "the file is empty"),
    "only comments": ("# nothing\n", "1:1", "the file is empty"),
    "only null": ("null\n", "1:1", "the file is empty"),
    "a list": ("- a\n", "1:1", "a search space must be a mapping of sections, but got a list"),
    "a word": ("hello\n", "1:1", "but got 'hello'"),
    "two documents": (OK + "---\na: 1\n", "2:1", "a second document begins here"),
    "tag": (OK + "study: {name: !!python/object/apply:os.system [ls]}\n", "2:15", "YAML tags .*python/object/apply:os.system.* are not supported"),
    "alias": (OK + "study: &a {seed: 1}\ndata: *a\n", "3:7", "YAML aliases .* are not supported"),
    "bomb": (
        "a: &a [1, 1]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)),
        "2:8", "YAML aliases",
    ),
    "deep": ("[" * 5000, "1:21", "20 levels; this one has more"),
    "many": (f"space: {{alpha: {{choice: [{', '.join(['0'] * 6000)}]}}}}", "", "at most 5000 values"),
    "list as key": (OK + "? [a]\n: 1\n", "2:3", "a key must be one word"),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CASES if name != "adversarial twice"])
def test_bad_file(tmp_path: Path, name: str) -> None:
    content, place, message = CASES[name]
    said = complaint(tmp_path, content)
    problem = next((each for each in said.split("\n\n") if re.search(message, each, re.DOTALL)), None)
    assert problem is not None, said
    assert problem.startswith(f"bad.yaml:{place}"), problem
    lines = problem.split("\n")
    if content and place:
        column = int(place.split(":")[1])
        assert any(line.strip() == "^" for line in lines[1:3]), problem
        assert column > 60 or lines[2].index("^") - 4 == column - 1


def test_adversarial_stands_once(tmp_path: Path) -> None:
    text = "train: {adversarial: {epsilon: 0.1}}\n" + space_with("adversarial: {epsilon: 0.1}\nalpha: 1")
    assert "bad.yaml:3:3 `adversarial` stands under `space` and under `train`" in complaint(tmp_path, text)


def test_the_whole_message_of_one_error(tmp_path: Path) -> None:
    said = complaint(tmp_path, OK + "budget: {trails: 4}\n")
    assert said == (
        "bad.yaml:2:10 'trails' is not a key of `budget`.\n    budget: {trails: 4}\n             ^\n    did you mean 'trials'?"
    )


def test_an_unreadable_value_is_told_once(tmp_path: Path) -> None:
    said = complaint(tmp_path, OK + "train: {epochs: !!int x}\n")
    assert said.count("bad.yaml:") == 1
    assert "YAML tags" in said


def test_all_errors_at_once_in_order(tmp_path: Path) -> None:
    text = """
study: {name: kd, sead: 0}
data: {name: digitz, shuffle: no}
train: {epochs: '60', epochs: 3}
space:
  temprature: {float: [1, 20]}
  alpha: {float: [1, 0]}
  solver: {choice: [rk4, dopri5]}
  evaluations: {choice: [6], when: {solver: [rk4]}}
  rtol: {float: [0, 1], log: true, when: {solver: [dopri6]}}
anchors: [{solver: euler}]
early_stopping: {name: ashes}
"""
    said = complaint(tmp_path, text, "budget.trails=4", "oops", "space.horizon=-1")
    places = re.findall(r"^(bad\.yaml:\d+:\d+|override #\d '[^']*':)", said, re.MULTILINE)
    assert places == [
        *(
            "bad.yaml:2:19",
            "bad.yaml:3:14",
            "bad.yaml:3:31",
            "bad.yaml:4:17",
            "bad.yaml:4:23",
            "bad.yaml:6:3",
            "bad.yaml:7:18",
        ),
        *("bad.yaml:9:3", "bad.yaml:10:18", "bad.yaml:11:20", "bad.yaml:12:24"),
        *("override #1 'budget.trails=4':", "override #2 'oops':", "override #3 'space.horizon=-1':"),
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "budget.trails=4",
            r"^override #1 'budget\.trails=4': 'trails' is not a key.*\n    budget\.trails=4\n           \^\n.*'trials'",
        ),
        (
            "budget.trials=four",
            r"^override #1 '[^']*': `budget.trials` must be a number, but got 'four'.*\n.*\n {18}\^",
        ),
        ("budget.trials", "must be key=value"),
        ("=4", "must be key=value"),
        ("a..b=4", "must be key=value"),
        ("x" * 20000, "must be key=value"),
        ("budget.trials.x=4", "`budget.trials` is a single value and has no `x`"),
        ("teachers.2.arch=resnet20", "`teachers` is a list of 1 and has no `2`"),
        ("teachers.first.arch=resnet20", "`teachers` is a list of 1 and has no `first`"),
        ("space.solver=[", "broken YAML"),
        ("space.solver=!!python/name:os.system rk4", "YAML tags"),
        ("space.solver=heun", "heun gets none of steps, step_size, evaluations"),
        (
            "student.solver=rk4",
            "stands under `space` and under `student`; keep one of the two, or override `space.solver`",
        ),
        ("space.solver=dopri5", "`anchors.0` lacks `rtol`"),
        ("nonsense=1", "'nonsense' is not a key of a search space, which knows study"),
        ("study.name=\udc80", "override #1"),
    ],
)
def test_bad_override(override: str, message: str) -> None:
    with pytest.raises(SpaceError, match=re.compile(message, re.DOTALL)):
        read_space(KD, [override])


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    assert (
        complaint(tmp_path, b"space:\n  a: \xff\n")
        == "bad.yaml:2:6 the byte 0xff is not UTF-8; save the file as UTF-8 text."
    )
    assert "not UTF-8" in complaint(tmp_path, OK.encode("utf-16"))
    assert "larger than 64 KiB" in complaint(tmp_path, b"#" * 300_000)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="this is a folder; give the YAML file in it"):
        read_space(tmp_path)
    with pytest.raises(SpaceError, match="there is no such file"):
        read_space(tmp_path / "absent.yaml")
    with pytest.raises(SpaceError, match=r"there is no folder .* either"):
        read_space(tmp_path / "absent" / "kd.yaml")
    with pytest.raises(SpaceError, match="cannot be read"):
        read_space(Path("a\0b"))
    with pytest.raises(SpaceError, match="cannot be read"):
        read_space(KD / "inside.yaml")


FRAGMENTS = (
    *(
        "",
        " ",
        "\n",
        "\t",
        ":",
        ",",
        "[",
        "]",
        "{",
        "}",
        "'",
        '"',
        "#",
        "&a ",
        "*a",
        "!x ",
        "- ",
        "? ",
        "|",
        "%",
        "\\",
        "\x00",
        "é",
        "\ud7ff",
    ),
    *(
        "null",
        "true",
        "no",
        "0",
        "-1",
        "1e999",
        ".nan",
        "1/0",
        "1/3",
        "9" * 60,
        "when",
        "choice",
        "float",
        "int",
        "log",
        "step",
        "solver",
    ),
    *(
        "alpha",
        "dopri5",
        "rk4_classic",
        "adjoint",
        "gradient: adjoint, ",
        "seed: {choice: [0]}",
        "steps: 4, ",
        "space:",
        "anchors:",
        "<<",
    ),
)


def mutated(text: str, dice: random.Random) -> str:
    for _ in range(dice.randint(1, 3)):
        start = dice.randrange(len(text) + 1)
        match dice.choice((0, 1, 2, 4, 3, 3, 3, 3)):
            case 0:
                text = text[:start] + dice.choice(FRAGMENTS) + text[start:]
            case 1:
                text = text[:start] + text[start + dice.randint(1, 12) :]
            case 2:
                words = re.findall(r"[\w./-]+", text) or [""]
                text = text.replace(dice.choice(words), dice.choice([*FRAGMENTS, *words]), dice.choice([1, -1]))
            case 3:
                numbers = [*re.finditer(r"(?<=[ \[])[0-9][0-9./e-]*", text)] or [None]
                if (found := dice.choice(numbers)) is not None:
                    text = (
                        text[: found.start()]
                        + dice.choice(("0", "1", "4", "8", "2/3", "0.25", "20", "6"))
                        + text[found.end() :]
                    )
            case _:
                lines = text.split("\n")
                lines.insert(dice.randrange(len(lines) + 1), dice.choice(lines))
                text = "\n".join(lines)
    return text


@pytest.mark.parametrize("first", range(0, 300, 60))
def test_mutated_files_never_end_in_a_traceback(tmp_path: Path, first: int) -> None:
    path = tmp_path / "fuzz.yaml"
    original = re.sub(r" *#.*", "", KD.read_text())
    refusals = []
    for seed in range(first, first + 60):
        path.write_bytes(mutated(original, random.Random(seed)).encode("utf-8", "surrogatepass"))
        try:
            space = read_space(path)
        except SpaceError as error:
            refusals.append(str(error))
        else:
            for anchor in space.anchors:
                assert space.settings(anchor)["student"]
    assert 20 < len(refusals) < 60  # both kinds are met
    for refusal in refusals:
        assert re.match(re.escape(str(path)) + r":\d+:\d+ ", refusal), refusal


def test_hostile_sizes_are_refused_in_time(tmp_path: Path) -> None:
    """Each of these took seconds to minutes when problems were compared in full and never ended."""
    for text in (
        "a: [" + "*a, " * 15_000 + "]",
        "space: {" + "".join(f"alphab{index}: 1, " for index in range(2400)) + "}",
        "a: b\n" * 12_000,
        "{" * 60_000,
        "a: " + "!" * 60_000,
    ):
        began = time.process_time()
        assert "bad.yaml:" in complaint(tmp_path, text)
        assert time.process_time() - began < 2


def test_not_more_than_a_hundred_problems_are_told(tmp_path: Path) -> None:
    said = complaint(tmp_path, OK + "".join(f"key{index}: 1\n" for index in range(300)))
    assert len(re.findall(r"^bad\.yaml:", said, re.MULTILINE)) == 100
    assert said.endswith("and more; these are the first 100.")
