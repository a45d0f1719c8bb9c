"""Downloads against a server on this machine: whole, checked, or nothing with advice."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dfplan.data import Episodes
from dfplan.data.fetch import cached_d4rl_files, fetch_d4rl, fetch_minari

NAME = "maze2d-umaze-sparse-v1.hdf5"


class Server:
    """Answers that a test sets, and the address to ask for them."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes, int | None]] = {}
        self.asked: list[str] = []
        answers, asked = self.answers, self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                status, body, length = answers.get(self.path, (404, b"nothing here", None))
                self.send_response(status)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def put(self, body: bytes, length: int | None = None, status: int = 200) -> None:
        self.answers[f"/{NAME}"] = (status, body, len(body) if length is None else length)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for key in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_good_file_arrives_once(
    server: Server, cache: Path, tour: Callable[..., Any], write_h5: Callable[..., Path]
) -> None:
    whole = write_h5(tour()).read_bytes()
    server.put(whole)
    seen: list[tuple[int, int | None]] = []
    path = fetch_d4rl("maze2d-umaze", base_url=server.url, progress=lambda *pair: seen.append(pair))
    assert path == cache / NAME
    assert path.read_bytes() == whole
    assert sum(done for done, _ in seen) == len(whole)
    assert {total for _, total in seen} == {len(whole)}
    assert cached_d4rl_files() == [{"env": "maze2d-umaze-v1", "path": str(path), "size_bytes": len(whole)}]
    assert fetch_d4rl("maze2d-umaze-v1", base_url=server.url) == path
    assert len(server.asked) == 1
    fetch_d4rl("maze2d-umaze-v1", base_url=server.url, overwrite=True)
    assert len(server.asked) == 2


def test_other_names_have_their_own_addresses(
    server: Server,
    cache: Path,
    tour: Callable[..., Any],
    write_h5: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a file of D4RL's other folders asked for in maze2d's, and advice that makes another kind of data."""
    whole = write_h5(tour()).read_bytes()
    server.answers["/gym_mujoco_v2/hopper_medium-v2.hdf5"] = (200, whole, len(whole))
    monkeypatch.setattr("dfplan.data.fetch.ROOT_URL", f"{server.url}/")
    assert fetch_d4rl("hopper-medium") == cache / "hopper_medium-v2.hdf5"
    assert [row["env"] for row in cached_d4rl_files()] == ["hopper-medium-v2"]
    with pytest.raises(ConnectionError, match=r"ant_maze_v2/Ant_maze_big-maze_.*`dfplan data collect --env ID"):
        fetch_d4rl("antmaze-medium-play-v2")


BAD: list[tuple[Callable[[Server, bytes], None], type[Exception], str]] = [
    (lambda server, whole: server.put(whole[:-99], len(whole)), ConnectionError, "cannot download .*sparse-v1.hdf5"),
    (
        lambda server, whole: server.put(whole[:-99]),
        ValueError,
        "downloaded from .*: found a damaged or truncated file",
    ),
    (lambda server, whole: server.put(b"<html>sorry</html>"), ValueError, r"downloaded from .*\(a web page"),
    (lambda server, whole: server.put(b""), ValueError, "found an empty file"),
    (lambda server, whole: server.put(b"", status=500), ConnectionError, "HTTP Error 500"),
    (lambda server, whole: None, ConnectionError, "HTTP Error 404"),
]


@pytest.mark.parametrize(("spoil", "error", "match"), BAD, ids=range(len(BAD)))
def test_a_bad_download_keeps_the_old_file(
    server: Server,
    cache: Path,
    tour: Callable[..., Any],
    write_h5: Callable[..., Path],
    spoil: Callable[[Server, bytes], None],
    error: type[Exception],
    match: str,
) -> None:
    """Catches a download into the target itself, an unchecked length and a file that nobody looked into."""
    whole = write_h5(tour()).read_bytes()
    cache.mkdir()
    (cache / NAME).write_bytes(whole)
    spoil(server, whole)
    with pytest.raises(error, match=match):
        fetch_d4rl("maze2d-umaze", base_url=server.url, overwrite=True)
    assert (cache / NAME).read_bytes() == whole
    assert os.listdir(cache) == [NAME]


def test_without_a_server_the_way_by_hand_is_named(server: Server, cache: Path) -> None:
    gone = Server()
    gone.http.server_close()
    with pytest.raises(
        ConnectionError, match=r"Without a network here: .*`dfplan data import FILE`.*`dfplan data make"
    ):
        fetch_d4rl("maze2d-umaze", base_url=gone.url)
    assert os.listdir(cache) == []
    with pytest.raises(ValueError, match="unknown D4RL dataset 'hoper'"):
        fetch_d4rl("hoper", base_url=server.url)


def test_minari_without_a_network(datasets: Path) -> None:
    pytest.importorskip("minari")
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ConnectionError, match=r"cannot download D4RL/pointmaze/umaze-v2 .*`minari download D4RL"):
        fetch_minari("D4RL/pointmaze/umaze-v2")
    assert list(datasets.rglob("*")) == []
    assert os.environ["MINARI_DATASETS_PATH"] == str(datasets)


def test_minari_dataset_is_moved_into_place_whole(
    episodes: Episodes, datasets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a download that is visible before it is complete, and one that leaves the hub's own folders behind."""
    minari = pytest.importorskip("minari")
    from dfplan.data.minari_io import list_minari, load_minari, save_minari

    def download(dataset_id: str) -> None:
        save_minari(episodes, dataset_id)
        root = Path(os.environ["MINARI_DATASETS_PATH"])
        (root / "D4RL" / ".cache").mkdir()
        sys.stdout.write("Downloading ...")
        assert not (datasets / dataset_id).exists()

    monkeypatch.setattr(minari, "download_dataset", download)
    folder = fetch_minari("D4RL/pointmaze/umaze-v2")
    assert folder == datasets / "D4RL/pointmaze/umaze-v2"
    assert list(list_minari()) == ["D4RL/pointmaze/umaze-v2"]
    assert load_minari("D4RL/pointmaze/umaze-v2").digest() == episodes.digest()
    assert [path.name for path in folder.iterdir()] == ["data"]
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"exists at .*; pass --overwrite"):
        fetch_minari("D4RL/pointmaze/umaze-v2")

    def fail(dataset_id: str) -> None:
        Path(os.environ["MINARI_DATASETS_PATH"], "half").mkdir()
        raise ValueError("no such dataset on the server")

    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(ValueError, match="no such dataset on the server"):
        fetch_minari("D4RL/pointmaze/umaze-v2", overwrite=True)
    assert load_minari("D4RL/pointmaze/umaze-v2").digest() == episodes.digest()
