"""Reading, overriding, writing and comparing settings; every fault is one helpful line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.config.fields import SECTIONS, keys, keys_of
from primia.config.reader import differences, dump_config, load_config, read_config
from primia.config.settings import Settings
from primia.errors import ConfigError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "x.ini"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def fault(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line if path is None else line.replace(str(path), path.name)


def test_nothing_given_gives_the_defaults() -> None:
    assert load_config() == Settings()


def test_values_of_every_kind(write: Write) -> None:
    settings = load_config(
        write(
            "# a run\n[run]\nseed = 7  ; lucky\n\n[data]\nsource=folder\npath = scans/ward 3\nchannels = 3\n"
            'classes = normal, bacterial pneumonia\npatient_pattern = "^(p#?\\d+) #"\n'
            "[training]\nclass_weights = on\nlearning_rate = 1e-2\nend_learning_rate =\n[privacy]\n"
        )
    )
    assert settings.run.seed == 7
    assert settings.data.path == Path("scans/ward 3")
    assert settings.data.channels == 3
    assert settings.data.classes == ("normal", "bacterial pneumonia")
    assert settings.data.patient_pattern == r"^(p#?\d+) #"
    assert settings.training.class_weights is True
    assert settings.training.learning_rate == 0.01
    assert settings.training.end_learning_rate is None


@pytest.mark.parametrize(
    ("text", "value"),
    [(text, value) for value, texts in {True: "yes true on 1", False: "no false off 0"}.items() for text in texts.split()],
)
def test_truth_values(text: str, value: bool) -> None:
    assert load_config(None, [f"training.class_weights={text}"]).training.class_weights is value


def test_overrides_go_on_top_and_the_last_one_wins(write: Write) -> None:
    path = write("[run]\nseed = 1\n[training]\nbatch_size = 8\n")
    settings = load_config(path, ["run.seed=2", "run.seed = 3", "training.batch_size="])
    assert settings.run.seed == 3
    assert settings.training.batch_size == Settings().training.batch_size


def test_an_override_may_hold_equals_signs_and_hashes() -> None:
    assert load_config(None, ["run.mode=local", "run.site=a=b #c"]).run.site == "a=b #c"


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.ini"
    path.write_bytes(b"\xef\xbb\xbf[run]\r\nseed = 5\r\n")
    assert load_config(path).run.seed == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[training]\noptimizer = rmsprop\n", "x.ini: training.optimizer = rmsprop: must be one of sgd, adam, adamw"),
        ("[training]\nbatch_size = 0\n", "x.ini: training.batch_size = 0: must be a whole number >= 1"),
        (
            "[training]\nbatch_size = 0\nmomentum = 2\n",
            "x.ini: training.batch_size = 0: must be a whole number >= 1 and <= 1,000,000 (and 1 more)",
        ),
        ("[training]\nlearning_rate = inf\n", "x.ini: training.learning_rate = inf: must be a number > 0"),
        ("[data]\nclasses = a,,b\n", "x.ini: data.classes = a,,b: must be names, comma-separated"),
        ("[data]\npatient_pattern = (\n", "x.ini: data.patient_pattern = (: must be auto, file or a regular expression with one group"),
        ("[training]\noptimzer = sgd\n", "x.ini: unknown key training.optimzer; did you mean training.optimizer?"),
        ("[training]\nBatch_Size = 8\n", "x.ini: unknown key training.Batch_Size; did you mean training.batch_size?"),
        ("[data]\nbatch_size = 8\n", "x.ini: unknown key data.batch_size; did you mean training.batch_size?"),
        ("[search]\nzzz = 8\n", "x.ini: unknown key search.zzz; keys of [search]: algorithm, trials, "),
        ("[search]\nspace = 8\n", "x.ini: unknown key search.space; "),
        ("[search]\nlearning_rate = 8\n", "x.ini: unknown key search.learning_rate; did you mean training.learning_rate?"),
        ("[search]\ntraining.optimzer = 8\n", "x.ini: [search] unknown key training.optimzer; did you mean training.optimizer?"),
        ("[search]\nsearch.space = 8\n", "x.ini: [search] unknown key search.space; "),
        ("[search]\nconfig.lr = 8\n", "x.ini: [search] config.lr is PriMIA's name; it is learning_rate in section [training] now"),
        ("[search]\nzzz.x = 8\n", "x.ini: [search] unknown section [zzz]; sections: run, data, "),
        ("[trainings]\nbatch_size = 8\n", "x.ini: unknown section [trainings]; did you mean [training]? sections: run, data, "),
        ("[zzz]\n", "x.ini: unknown section [zzz]; sections: run, data, "),
        ("[DEFAULT]\nseed = 1\n", "x.ini: unknown section [DEFAULT]; "),
        ("[config]\nlr = 1\n", "x.ini: config.lr is PriMIA's name; it is learning_rate in section [training] now"),
        ("[run]\nseed = 1\nseed = 2\n", "x.ini: line 3: run.seed is given twice; keep one"),
        ("[run]\nseed = 1\n[data]\n[run]\n", "x.ini: line 4: section [run] begins twice; put its keys together"),
        ("[run]\nseed\n", "x.ini: line 2: 'seed' is neither a [section] nor key = value"),
        ("seed = 1\n", "x.ini: line 1: 'seed = 1' stands before any [section]; the file must begin with one"),
        ("{}\n", "x.ini: line 1: '{}' stands before any [section]; the file must begin with one"),
        ("[run]\nseed = 1\n  mode = pooled\n", "x.ini: [run] the line after seed is indented; "),
        ("[run]\nmode = local\n", "x.ini: run.mode = local needs run.site"),
        ("[model]\nname = resnet18\n[data]\nimage_size = 16\n", "x.ini: model.name = resnet18 needs images of at least 32 pixels"),
    ],
)
def test_a_fault_in_a_file_is_one_line(write: Write, text: str, said: str) -> None:
    assert fault(write(text)).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        "[run]\na" + " " * 100_000 + "b\n",
        "[run]\na" + " " * 100_000 + "= b\n",
        "[run]\na" + "\x1c \u2028" * 20_000 + "b",
        "[run]\n" + "x\n" * 10**6,
    ],
    ids=["blanks", "blanks before =", "odd ends of lines", "many lines"],
)
def test_a_file_that_would_keep_the_parser_busy_is_refused_at_once(write: Write, text: str) -> None:
    """The parser's pattern takes time that grows with the square of a line's blanks: 6 s for 20,000."""
    path, start = write(text), process_time()
    assert len(fault(path)) < 200
    assert process_time() - start < 1.0


def test_a_link_is_followed_where_the_user_names_it_only(write: Write, tmp_path: Path) -> None:
    link = tmp_path / "link.ini"
    link.symlink_to(write("[run]\nseed = 7\n"))
    assert load_config(link).run.seed == 7
    with pytest.raises(ConfigError, match="a symbolic link"):
        load_config(link, follow=False)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.optimizer=rmsprop", "--set training.optimizer=rmsprop: must be one of sgd, adam, adamw"),
        ("training.optimzer=sgd", "--set: unknown key training.optimzer; did you mean training.optimizer?"),
        ("seed=1", "--set seed=1: write it as section.key=value"),
        ("run.seed", "--set run.seed: write it as section.key=value"),
        ("run.seed.x=1", "--set run.seed.x=1: write it as section.key=value"),
        ("run.mode=local", "--set: run.mode = local needs run.site"),
        ("search.training.optimzer=bool", "--set: [search] unknown key training.optimzer; did you mean training.optimizer?"),
        ("search.training.optimizer.x=bool", "--set search.training.optimizer.x=bool: write it as section.key=value"),
    ],
)
def test_a_fault_in_an_override_is_one_line(override: str, said: str) -> None:
    assert fault(None, override).startswith(said)


def test_a_fault_in_an_override_does_not_blame_the_file(write: Write) -> None:
    assert fault(write("[training]\nbatch_size = 8\n"), "training.batch_size=x").startswith("--set training.batch_size=x: ")


def test_missing_file_folder_and_binary(tmp_path: Path) -> None:
    binary = tmp_path / "picture.png"
    binary.write_bytes(b"\x89PNG\r\n\xff\xfe")
    assert fault(tmp_path / "none.ini") == "cannot read settings file none.ini: No such file or directory"
    assert fault(tmp_path).endswith("Is a directory")
    assert fault(binary) == "picture.png: not a settings file: byte 0 is not UTF-8 text"


def test_an_empty_file_is_the_defaults(write: Write) -> None:
    assert read_config(write("")) == (Settings(), [])


LINES = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" #;\"=%[]:,'"), max_size=12)
PATHS = LINES.filter(lambda text: text not in ("", ".") and not text.startswith("~")).map(Path)
CLASSES = LINES.filter(bool)
SETTINGS = st.builds(
    lambda **sections: Settings.model_validate(sections),
    run=st.fixed_dictionaries(
        {"mode": st.sampled_from(["federated", "pooled"]), "site": LINES, "seed": st.integers(0, 2**63 - 1), "output": PATHS}
    ),
    data=st.fixed_dictionaries(
        {
            "source": st.sampled_from(["demo", "mnist"]),
            "path": st.none() | PATHS,
            "channels": st.sampled_from([1, 3]),
            "classes": st.lists(CLASSES, max_size=3, unique=True),
            "dirichlet_alpha": st.floats(1e-300, 1e9),
            "patient_pattern": st.sampled_from(["auto", "(.) #", '"(.)"', "(x);", "  (y)", "(;#)"]),
        }
    ),
    training=st.fixed_dictionaries(
        {
            "optimizer": st.sampled_from(["sgd", "adam"]),
            "end_learning_rate": st.none() | st.floats(1e-12, 1),
            "momentum": st.floats(0, 0.99),
            "class_weights": st.booleans(),
        }
    ),
    federation=st.fixed_dictionaries({"sync_every_n_batch": st.integers(0, 9)}),
    search=st.fixed_dictionaries({"space": st.dictionaries(st.sampled_from(keys()), CLASSES, max_size=3)}),
)


@given(settings=SETTINGS)
def test_what_is_dumped_reads_back_equal(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.ini"
    path.write_text(dump_config(settings), encoding="utf-8")
    assert load_config(path) == settings


def test_a_dump_names_every_key_and_warns_of_nothing(write: Write) -> None:
    text = dump_config(Settings())
    for section in SECTIONS:
        assert f"\n[{section}]\n" in text
        for key in keys_of(section):
            name = key.split(".")[1]
            assert f"\n{name} =" in text or f"\n# {name} =" in text
    assert read_config(write(text)) == (Settings(), [])


def test_a_dump_keeps_the_warning_of_what_was_given_in_vain(write: Write) -> None:
    settings, warnings = read_config(None, ["training.momentum=0.5"])
    assert read_config(write(dump_config(settings))) == (settings, warnings)


def test_differences_name_key_old_and_new() -> None:
    a = load_config(None, ["data.path=x", "data.source=mnist"])
    b = load_config(None, ["data.source=mnist", "training.class_weights=yes"])
    assert differences(a, b) == ["data.path: x -> (empty)", "training.class_weights: no -> yes"]
    assert differences(a, a) == []


SPACE = """\
[search]
trials = 5
training.optimizer = choice("a, b", sgd)   # quotes and commas stay
training.momentum = uniform(0.5, 0.99) only if training.optimizer = sgd
training.beta1 =
"""


def test_a_space_is_kept_as_it_is_written(write: Write) -> None:
    search = load_config(write(SPACE), ["search.training.learning_rate = loguniform(1e-5, 1e-2)"]).search
    assert search.trials == 5
    assert search.space == {
        "training.optimizer": 'choice("a, b", sgd)',
        "training.momentum": "uniform(0.5, 0.99) only if training.optimizer = sgd",
        "training.learning_rate": "loguniform(1e-5, 1e-2)",
    }


def test_a_space_is_written_behind_the_keys_of_its_section(write: Write) -> None:
    settings = load_config(write(SPACE))
    text = dump_config(settings)
    assert text.index("\nreplicas =") < text.index('\ntraining.optimizer = choice("a, b", sgd)\n') < text.index("\n[resources]")
    assert load_config(write(text)) == settings
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings


def test_an_override_of_a_searched_setting_replaces_it_and_an_empty_one_takes_it_out(write: Write) -> None:
    space = load_config(write(SPACE), ["search.training.optimizer=choice(adam, sgd)", "search.training.momentum="]).search.space
    assert space == {"training.optimizer": "choice(adam, sgd)"}


def test_differences_tell_of_the_space() -> None:
    a = load_config(None, ["search.training.learning_rate=uniform(1, 2)", "search.training.beta1=uniform(0, 0.5)"])
    b = load_config(None, ["search.training.learning_rate=uniform(1, 3)", "search.trials=3"])
    assert differences(a, b) == [
        "search.trials: 20 -> 3",
        "search.training.learning_rate: uniform(1, 2) -> uniform(1, 3)",
        "search.training.beta1: uniform(0, 0.5) -> (empty)",
    ]
