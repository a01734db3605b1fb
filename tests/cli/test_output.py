import pytest

from runtime.cli import output


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00 us"),
        (8.45e-6, "8.45 us"),
        (0.000123456, "123 us"),
        (0.0009996, "1000 us"),
        (0.0012, "1.20 ms"),
        (0.0999, "99.9 ms"),
        (0.5, "500 ms"),
        (1.0, "1.00 s"),
        (75.26, "75.3 s"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert output.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3660, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_span(value: float, text: str) -> None:
    assert output.span(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (92_602_368, "88.3 MiB"), (5 << 30, "5.00 GiB")],
)
def test_size(count: int, text: str) -> None:
    assert output.size(count) == text


def test_columns_of_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", ">count", ""), [["a", "1", "x"], ["longer", "12345", ""]], "title")
    assert capsys.readouterr().out.splitlines() == [
        "title",
        "name    count",
        "a           1  x",
        "longer  12345",
    ]


def test_a_table_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", ">count"), [])
    assert capsys.readouterr().out == "name  count\n"


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_drawn_table(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("state", ">count"), [["READY", "1"], ["[red]x[/]", "12"]])
    drawn = capsys.readouterr().out
    assert "│ READY     │     1 │" in drawn
    assert "│ [red]x[/] │    12 │" in drawn, "text of others is no markup"


@pytest.mark.usefixtures("terminal")
def test_no_control_sequences_from_outside(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = "a\x1b[2Jb\x07\r\nc\x9b"
    output.table((nasty,), [[nasty]])
    output.say(nasty)
    output.pairs([("name", nasty)])
    said = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(said)
    assert said.splitlines()[-2:] == ["a [2Jb   c ", "  name  a [2Jb   c "]
