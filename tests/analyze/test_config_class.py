"""What is read of a config class: fields, defaults, aliases, what may be None."""

from pathlib import Path

import pytest

from porter.analyze.values import Class
from porter.config_class import ConfigClass, read_config_class
from porter.source import SourceSet

HEAD = "from transformers.configuration_utils import PreTrainedConfig\n\n"


def read(tmp_path: Path, body: str) -> ConfigClass:
    sources = SourceSet()
    file = sources.load(tmp_path / "configuration.py", HEAD + body)
    cls = file.names["Config"]
    assert isinstance(cls, Class)
    return read_config_class(sources, cls)


def test_fields_of_a_dataclass(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "class Config(PreTrainedConfig):\n"
        '    model_type = "tern"\n'
        "    width: int = 32\n"
        "    eps: float = 1e-6\n"
        "    window: int | None = None\n"
        '    names: list = field(default=("a", "b"))\n',
    )
    assert config.model_type == "tern"
    assert config.fields["width"] == 32 and config.fields["eps"] == 1e-6
    assert config.fields["names"] == ("a", "b")
    assert "window" in config.optional and "width" not in config.optional
    assert config.annotations["window"] == "int | None"


def test_fields_of_an_init(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "class Config(PreTrainedConfig):\n"
        "    def __init__(self, width=32, window=None, **kwargs):\n"
        "        self.width = width\n"
        "        self.window = window\n"
        "        self.double = width * 2\n"
        "        super().__init__(**kwargs)\n",
    )
    assert config.fields["width"] == 32 and config.fields["window"] is None
    assert "window" in config.optional and "width" not in config.optional
    assert config.declares("double")


@pytest.mark.parametrize(
    "method",
    [
        "    def __post_init__(self, **kwargs):\n"
        "        if self.groups is None:\n"
        "            self.groups = self.width\n",
        "    def __init__(self, width=32, groups=None):\n"
        "        if groups is None:\n"
        "            groups = width\n"
        "        self.groups = groups\n",
    ],
    ids=["dataclass", "init"],
)
def test_settled_where_it_was_none(tmp_path: Path, method: str) -> None:
    fields = "    width: int = 32\n    groups: int | None = None\n"
    config = read(tmp_path, f"class Config(PreTrainedConfig):\n{fields}{method}")
    assert "groups" not in config.optional


def test_another_condition_settles_nothing(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "class Config(PreTrainedConfig):\n"
        "    width: int = 32\n"
        "    groups: int | None = None\n"
        "    def __post_init__(self, **kwargs):\n"
        "        if self.groups is not None:\n"
        "            self.groups = self.width\n",
    )
    assert "groups" in config.optional


def test_the_attribute_map(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "class Config(PreTrainedConfig):\n"
        '    attribute_map = {"hidden_size": "width"}\n'
        "    width: int = 32\n",
    )
    assert config.canonical("hidden_size") == "width"
    assert config.canonical("width") == "width"
    assert config.declares("hidden_size") and not config.declares("height")


def test_a_base_is_overridden(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "class Base(PreTrainedConfig):\n"
        '    model_type = "base"\n'
        "    width: int = 32\n"
        "    depth: int | None = None\n\n\n"
        "class Config(Base):\n"
        '    model_type = "tern"\n'
        "    width: int = 64\n"
        "    depth: int = 2\n",
    )
    assert config.model_type == "tern" and config.fields["width"] == 64
    assert "depth" not in config.optional


def test_the_library_s_own_fields_are_there(tmp_path: Path) -> None:
    config = read(tmp_path, "class Config(PreTrainedConfig):\n    width: int = 32\n")
    assert config.declares("architectures")


def test_properties_are_declared(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "class Config(PreTrainedConfig):\n"
        "    width: int = 32\n"
        "    @property\n"
        "    def half(self):\n"
        "        return self.width // 2\n",
    )
    assert config.declares("half") and "half" in config.properties


@pytest.mark.parametrize(
    ("field", "size"),
    [
        ("width: int = 32", True),
        ("width: int | None = None", False),
        ("width: bool = True", False),
        ("width: int = 0", False),
        ("width: float = 0.5", False),
        ('width: str = "a"', False),
    ],
)
def test_a_size_is_a_number_that_is_never_none(
    tmp_path: Path, field: str, size: bool
) -> None:
    config = read(tmp_path, f"class Config(PreTrainedConfig):\n    {field}\n")
    assert config.is_size("width") is size


@pytest.mark.parametrize(("model", "sets"), [("glm", True), ("llama", False)])
def test_an_older_release_s_config_is_the_engine_s(
    tmp_path: Path, model: str, sets: bool
) -> None:
    """The older class says nothing of it; the installed one may set it by itself."""
    folder = tmp_path / "transformers/models" / model
    folder.mkdir(parents=True)
    (tmp_path / "transformers/__init__.py").touch()
    base = tmp_path / "transformers/configuration_utils.py"
    base.write_text("class PreTrainedConfig:\n    pass\n")
    file = folder / f"configuration_{model}.py"
    file.write_text(
        HEAD + "class OldConfig(PreTrainedConfig):\n    model_type = 'old'\n"
    )
    sources = SourceSet()
    cls = sources.lookup(sources.load(file), "OldConfig")
    assert isinstance(cls, Class)
    assert read_config_class(sources, cls).sets_partial_rotary is sets
