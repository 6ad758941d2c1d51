"""`ssss demo`: a page on this machine that shows what a run, or two runs, predict for an image.

The page is served by Python's own HTTP server and needs nothing from other hosts; its browser is told to load nothing
from elsewhere, by the header Content-Security-Policy.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import logging
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from ssss_zoo.config.fields import Range
from ssss_zoo.config.parse import build_typed, parse_overrides, split_overrides
from ssss_zoo.deploy.exported_models import open_model
from ssss_zoo.deploy.inference import predict_pixels
from ssss_zoo.deploy.label import open_run_data
from ssss_zoo.deploy.predict_settings import PredictSettings
from ssss_zoo.deploy.prediction_files import count_classes, uncertainty
from ssss_zoo.deploy.trained import TrainedModel, ids_of_classes, palette_image
from ssss_zoo.errors import UserError, out_of_memory
from ssss_zoo.evaluation.painting import draw_overlay, photo
from ssss_zoo.train.run_folder import find_run

RUNS_MAX = 2  # runs that one page compares
SHOWN_SIDE_MAX = 1600  # pixels of the longer side of a picture on the page (our choice)
PAGE_FOLDER = Path(__file__).parent / "demo_page"
PAGE_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
log = logging.getLogger("ssss_zoo")


@dataclass(frozen=True)
class DemoSettings:
    """The arguments of `ssss demo` beside the runs. port: 0 for any that is free. max_upload: in MB."""

    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 7860
    max_upload: Annotated[float, Range(0.001, 10_000)] = 20.0
    weights: Literal["", "last", "best"] = ""
    network: str = ""
    device: str = "auto"

    @property
    def upload_bytes(self) -> int:
        return int(self.max_upload * 1_000_000)


@dataclass(frozen=True, eq=False)
class Demo:
    """All that the page shows. unlabelled: the image files to walk through; without them, missing says why."""

    runs: tuple[str, ...]
    models: tuple[TrainedModel, ...]
    unlabelled: tuple[Path, ...]
    missing: str
    settings: DemoSettings


# --- settings -------------------------------------------------------------------------------------------------------


def open_demo(overrides: Iterable[str]) -> Demo:
    """The runs that the overrides name, loaded. Raises UserError for what a person can fix."""
    arguments = list(overrides)
    runs = tuple(text.partition("=")[2] for text in arguments if text.startswith("run="))
    data, own = split_overrides([text for text in arguments if not text.startswith("run=")], "data.")
    settings: DemoSettings = build_typed(DemoSettings, parse_overrides(own))
    if not all(runs) or not 1 <= len(runs) <= RUNS_MAX:
        raise UserError(f"{len(runs)} runs were given: ssss demo run=DIR, or ssss demo run=DIR run=DIR2")
    load_run = partial(open_model, weights=settings.weights or None, network=settings.network or None)
    models = tuple(load_run(run, device=settings.device) for run in runs)
    unlabelled, missing = find_unlabelled(runs[0], [f"{key}={text}" for key, text in data.items()])
    return Demo(runs, models, unlabelled, missing, settings)


def find_unlabelled(run: str, overrides: Sequence[str]) -> tuple[tuple[Path, ...], str]:
    """The unlabelled image files of a run's data set; and why there are none, empty where there are some. Raises
    UserError only where data.* keys are given and do not fit."""
    try:
        dataset, _ = open_run_data(find_run(run), overrides)
    except UserError as error:
        if overrides:
            raise
        return (), f"The unlabelled images of the run are not here: {error}"
    files = tuple(sample.image for sample in dataset.unlabelled)
    return files, "" if files else "The data set of the run has no unlabelled images."


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a server at this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- predictions as JSON --------------------------------------------------------------------------------------------


def describe_demo(demo: Demo) -> dict[str, Any]:
    """What the page needs to know before the first image."""
    return {
        "runs": list(demo.runs),
        "sources": [model.source for model in demo.models],
        "unlabelled": len(demo.unlabelled),
        "missing": demo.missing,
        "upload_bytes": demo.settings.upload_bytes,
    }


def predict_upload(demo: Demo, name: str, content: bytes) -> dict[str, Any]:
    """The predictions of an uploaded image, see `predict_file`. name: of the file on the visitor's machine."""
    suffix = Path(name).suffix[:10]
    with tempfile.TemporaryDirectory(prefix="ssss-demo-") as folder:
        file = Path(folder) / f"upload{suffix if suffix[1:].isalnum() else ''}"
        file.write_bytes(content)
        try:
            return predict_file(demo, file, name)
        except UserError as error:
            raise UserError(str(error).replace(str(file), name)) from None


def predict_file(demo: Demo, file: Path, name: str) -> dict[str, Any]:
    """The predictions of an image file by all runs, with pictures as data URLs. Raises UserError in one line."""
    try:
        predictions = [predict_with(model, run, file) for run, model in zip(demo.runs, demo.models, strict=True)]
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"{name}: the memory does not suffice for an image of this size; use a smaller one") from error
    return {"name": name, "predictions": predictions}


def predict_with(model: TrainedModel, run: str, file: Path) -> dict[str, Any]:
    """The prediction of one run: pictures as data URLs, and the share of each class, the largest first."""
    pixels, valid = model.read(file)
    probs = predict_pixels(model, PredictSettings(), [pixels])[0]
    classes = ids_of_classes(probs, valid)
    values = probs.cpu().numpy()
    with_data = classes < len(model.class_names)
    uncertain = Image.fromarray((255 * uncertainty(values)).round().astype(np.uint8))
    return {
        "run": run,
        "size": [classes.shape[1], classes.shape[0]],
        "image": picture_url(Image.fromarray(photo(pixels)), "JPEG"),
        "mask": picture_url(palette_image(classes, model.colours), "PNG"),
        "overlay": picture_url(draw_overlay(pixels, classes, model.colours), "JPEG"),
        "uncertainty": picture_url(uncertain, "PNG"),
        "classes": class_shares(model, classes),
        "confidence": float(values.max(axis=0)[with_data].sum() / max(int(with_data.sum()), 1)),
    }


def class_shares(model: TrainedModel, classes: np.ndarray) -> list[dict[str, Any]]:
    """Name, colour and share of each class, of the pixels with data, the largest share first."""
    counts = count_classes(classes, len(model.class_names))
    total = max(int(counts.sum()), 1)
    shares = [
        {"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*colour), "share": float(number / total)}
        for name, colour, number in zip(model.class_names, model.colours, counts, strict=True)
    ]
    return sorted(shares, key=lambda item: -item["share"])


def picture_url(picture: Image.Image, kind: Literal["JPEG", "PNG"]) -> str:
    """A picture as a data URL, at most SHOWN_SIDE_MAX pixels wide and high."""
    scale = min(1.0, SHOWN_SIDE_MAX / max(picture.size))
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.NEAREST if picture.mode == "P" else Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    (picture.convert("RGB") if kind == "JPEG" else picture).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# --- server ---------------------------------------------------------------------------------------------------------


class DemoServer(ThreadingHTTPServer):
    """Serves the page of a demo. Its threads are daemons, so that Ctrl-C ends it whatever a browser holds open."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.one_at_a_time = threading.Lock()  # the network is not asked by two visitors at once
        super().__init__((demo.settings.host, demo.settings.port), DemoHandler)

    def server_close(self) -> None:
        """Close once the prediction at work is made, since Python cannot end while torch computes in another thread."""
        super().server_close()
        self.one_at_a_time.acquire()

    @property
    def address(self) -> str:
        return f"http://{self.demo.settings.host}:{self.server_port}/"


class DemoHandler(BaseHTTPRequestHandler):
    """Answers the requests of the page."""

    server: DemoServer
    timeout = 30  # seconds without a byte from the visitor

    def do_GET(self) -> None:
        """Send a file of the page, the description of the demo, or the prediction of an unlabelled image."""
        path = urlsplit(self.path).path
        if not self.host_allowed():
            self.send_json({"error": "this page is for the machine that it runs on"}, HTTPStatus.FORBIDDEN)
        elif path in PAGE_FILES:
            name, kind = PAGE_FILES[path]
            self.send_content((PAGE_FOLDER / name).read_bytes(), kind, HTTPStatus.OK)
        elif path == "/demo.json":
            self.send_json(describe_demo(self.server.demo), HTTPStatus.OK)
        elif (number := unlabelled_number(path, self.server.demo)) is not None:
            file = self.server.demo.unlabelled[number]
            self.send_prediction(partial(predict_file, self.server.demo, file, file.name))
        else:
            self.send_json({"error": "there is no such page"}, HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Predict the image that is the body of the request; its name is in the query."""
        url = urlsplit(self.path)
        limit = self.server.demo.settings.upload_bytes
        length = self.headers.get("Content-Length", "")
        if not self.host_allowed() or url.path != "/predict":
            self.send_json({"error": "there is no such page"}, HTTPStatus.NOT_FOUND)
        elif not length.isdecimal():
            self.send_json({"error": "the upload does not say its length"}, HTTPStatus.LENGTH_REQUIRED)
        elif int(length) > limit:
            text = f"the file has {int(length) / 1e6:.1f} MB; at most {limit / 1e6:g} MB are taken (max_upload=)"
            self.send_json({"error": text}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            name = parse_qs(url.query).get("name", ["image"])[0]
            content = self.rfile.read(int(length))
            self.send_prediction(partial(predict_upload, self.server.demo, name, content))

    def host_allowed(self) -> bool:
        """Whether the request is for this machine by name, and from this page; so that no other website can reach a
        page on 127.0.0.1 through the visitor's browser."""
        origin = self.headers.get("Origin")
        asked = self.headers.get("Host", "")
        if origin is not None and urlsplit(origin).netloc != asked:
            return False
        return not is_loopback(self.server.demo.settings.host) or is_loopback(urlsplit(f"//{asked}").hostname or "")

    def send_prediction(self, predict: partial[dict[str, Any]]) -> None:
        """Send the predictions, or one line that says why there are none."""
        try:
            with self.server.one_at_a_time:
                answer = predict()
        except UserError as error:
            self.send_json({"error": " ".join(str(error).split())}, HTTPStatus.UNPROCESSABLE_ENTITY)
        except Exception as error:
            log.exception("an image could not be predicted")
            text = f"the image could not be predicted ({type(error).__name__}); the terminal has the details"
            self.send_json({"error": text}, HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self.send_json(answer, HTTPStatus.OK)

    def send_json(self, answer: dict[str, Any], status: HTTPStatus) -> None:
        self.send_content(json.dumps(answer).encode(), "application/json", status)

    def send_content(self, content: bytes, kind: str, status: HTTPStatus) -> None:
        """Send a whole answer, with the headers that keep the page to this server."""
        self.send_response(status)
        for name, text in {"Content-Type": kind, "Content-Length": str(len(content)), **SECURITY_HEADERS}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print no line for each request."""


def unlabelled_number(path: str, demo: Demo) -> int | None:
    """The number in `/unlabelled/NUMBER`, where there is such an image."""
    text = path.removeprefix("/unlabelled/")
    known = text != path and text.isdecimal() and int(text) < len(demo.unlabelled)
    return int(text) if known else None


def make_server(demo: Demo) -> DemoServer:
    """The server, listening. Raises UserError where the address is taken or not of this machine."""
    settings = demo.settings
    try:
        server = DemoServer(demo)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(
            f"cannot serve on {settings.host}:{settings.port} ({why}): give another port= or host="
        ) from error
    if not is_loopback(settings.host):
        log.warning(f"host={settings.host}: everyone on the network can use this page and see the unlabelled images")
    return server
