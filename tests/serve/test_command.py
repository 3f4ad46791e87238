"""Mistakes on the command line of `anchortrain serve` are one line each."""

import socket

import pytest

from anchortrain import cli


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("ANCHORTRAIN_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: everyone who can reach this address could use the server; set"),
        (["--port", "70000"], "--port: must be from 0 to 65535"),
        (["--places", "0"], "--places: must be at least 1"),
        (["--max_queue", "-1"], "--max_queue: must be 0 or more"),
        (["--timeout_s", "nan"], "--timeout_s: must be a number of seconds above 0"),
        (["--max_n", "400"], "--max_n: 400 samples never fit into 64 places and a queue of 256"),
        (["--name", "a\nb"], "--name: must be printable text"),
        (
            ["--cors_origin", "foo"],
            "--cors_origin: must be an origin as browsers send it, such as https://page.example",
        ),
        (["--cors_origin", "https://page.example/"], "got 'https://page.example/'"),
        (["--cors_origin", "https://page.example:443"], "got 'https://page.example:443'"),
        (["--cors_origin", "null"], "got 'null'"),
        (["--cors_origin", "*"], "--cors_origin *: any page that somebody visits could use the server; set"),
        (["--place", "3"], "unknown option --place"),
        (["--host", "no.such.host.invalid", "--no_auth"], "no.such.host.invalid:8000: "),
        (["--port", "0"], "no_such_run: no such run directory; make it with"),
    ],
)
def test_mistakes_end_in_one_line(capsys, argv, said):
    assert cli.main(["serve", "no_such_run", *argv]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "no_such_run", "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}: address already in use; choose another" in capsys.readouterr().err


def test_a_key_that_no_header_can_carry(capsys, monkeypatch):
    monkeypatch.setenv("ANCHORTRAIN_API_KEY", "schlüssel")
    assert cli.main(["serve", "no_such_run"]) == 2
    assert "ANCHORTRAIN_API_KEY: must be printable ASCII" in capsys.readouterr().err
