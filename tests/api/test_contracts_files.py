from __future__ import annotations

from pathlib import Path

import pytest

from taskforge import contracts

FOLDER = Path(__file__).parents[2] / "contracts"


@pytest.mark.parametrize(("name", "make"), contracts.CONTRACTS, ids=[name for name, _ in contracts.CONTRACTS])
def test_a_contract_says_what_the_code_does(name: str, make: contracts.Maker) -> None:
    assert (FOLDER / name).read_bytes() == make(), "run python -m taskforge.contracts and commit what changes"


def test_there_is_no_contract_that_nothing_makes() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {name for name, _ in contracts.CONTRACTS}


def test_check_names_what_is_out_of_date_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "contracts"
    assert contracts.main(["--dir", str(folder)]) == 0
    assert contracts.main(["--check", "--dir", str(folder)]) == 0
    (folder / "states.json").write_text("{}")
    (folder / "errors.json").unlink()
    capsys.readouterr()
    assert contracts.main(["--check", "--dir", str(folder)]) == 1
    said = capsys.readouterr()
    assert [Path(line.partition(":")[0]).name for line in said.out.splitlines()] == ["states.json", "errors.json"]
    assert "python -m taskforge.contracts" in said.err
    assert (folder / "states.json").read_text() == "{}"
    assert contracts.main(["--dir", str(folder)]) == 0
    assert contracts.main(["--check", "--dir", str(folder)]) == 0
