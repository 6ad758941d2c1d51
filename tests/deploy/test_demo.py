"""The page of `ssss demo`: its server, what it answers, and what it refuses."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from helpers.images import save_image
from helpers.trained_models import pointwise_model
from ssss_zoo.deploy import demo as demo_module
from ssss_zoo.deploy.demo import PAGE_FOLDER, Demo, DemoSettings, find_unlabelled, is_loopback, make_server, open_demo
from ssss_zoo.errors import UserError


def red_and_blue() -> np.ndarray:
    """(8, 16, 3): three quarters red, a quarter blue."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :12, 0] = 255
    pixels[:, 12:, 2] = 255
    return pixels


@pytest.fixture
def demo(tmp_path) -> Demo:
    file = save_image(tmp_path / "left.png", red_and_blue())
    models = (pointwise_model(), pointwise_model())
    return Demo(("one", "two"), models, (file,), "", DemoSettings(port=0, max_upload=0.01))


@pytest.fixture
def ask(demo):
    """ask(method, path, body, headers) -> status, headers and content of the answer."""
    with make_server(demo) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def answer(method, path, body=None, headers=()):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            content = response.read()
            connection.close()
            return response.status, response.headers, content

        yield answer
        server.shutdown()


def picture(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_an_upload_and_an_unlabelled_image_are_predicted_by_both_runs(ask, demo):
    status, _, content = ask("POST", "/predict?name=my%20photo.png", demo.unlabelled[0].read_bytes())
    walked_status, _, walked = ask("GET", "/unlabelled/0")
    assert (status, walked_status) == (200, 200)
    answer = json.loads(content)
    assert answer["name"] == "my photo.png"
    assert json.loads(walked)["predictions"] == answer["predictions"]
    assert [prediction["run"] for prediction in answer["predictions"]] == ["one", "two"]
    prediction = answer["predictions"][1]
    assert prediction["size"] == [16, 8]
    assert [(item["name"], item["colour"], item["share"]) for item in prediction["classes"]] == [
        ("red", "#ff0000", 0.75),
        ("blue", "#0000ff", 0.25),
        ("green", "#00ff00", 0.0),
    ]
    np.testing.assert_array_equal(np.asarray(picture(prediction["mask"]).convert("RGB")), red_and_blue())
    certain = np.exp(4) / (np.exp(4) + 2)
    assert prediction["confidence"] == pytest.approx(certain, abs=1e-5)
    entropy = -(certain * np.log(certain) + (1 - certain) * np.log((1 - certain) / 2)) / np.log(3)
    assert np.asarray(picture(prediction["uncertainty"])) == pytest.approx(255 * entropy, abs=1)
    assert {picture(prediction[kind]).size for kind in ("image", "overlay")} == {(16, 8)}


def test_a_bad_upload_gets_one_line_that_names_the_file(ask):
    cases = {
        "text.jpg": b"no image",
        "empty.png": b"",
        "../../passwd": b"x",
    }
    for name, content in cases.items():
        status, _, answer = ask("POST", f"/predict?name={name}", content)
        text = json.loads(answer)["error"]
        assert status == 422, name
        assert name in text
        assert "\n" not in text
        assert "ssss-demo-" not in text, "the path of the temporary file"


def test_an_upload_above_the_limit_is_refused(ask):
    status, _, answer = ask("POST", "/predict?name=large.png", b"x" * 10_001)
    assert status == 413
    assert json.loads(answer)["error"] == "the file has 0.0 MB; at most 0.01 MB are taken (max_upload=)"


def test_a_fault_of_the_program_is_one_line_on_the_page(ask, monkeypatch):
    monkeypatch.setattr(demo_module, "predict_file", lambda *arguments: 1 / 0)
    status, _, answer = ask("GET", "/unlabelled/0")
    assert status == 500
    assert "ZeroDivisionError" in json.loads(answer)["error"]


def test_the_page_loads_nothing_from_elsewhere(ask):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, _ = ask("GET", path)
        assert status == 200
        assert headers["Content-Type"].startswith(kind)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    text = "".join(file.read_text() for file in PAGE_FOLDER.iterdir()).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|integrity", text)
    described = json.loads(ask("GET", "/demo.json")[2])
    assert (described["unlabelled"], described["upload_bytes"]) == (1, 10_000)


def test_other_paths_and_other_websites_are_refused(ask):
    for path in ("/unlabelled/1", "/unlabelled/-1", "/unlabelled/", "/../pyproject.toml", "/page.html/"):
        assert ask("GET", path)[0] == 404, path
    assert ask("GET", "/unlabelled/0", headers={"Host": "evil.example"})[0] == 403
    assert ask("POST", "/predict", b"x", {"Origin": "https://evil.example"})[0] == 404


def test_it_closes_once_the_prediction_at_work_is_made(demo):
    """Python aborts where it ends while torch computes in another thread."""
    server, made = make_server(demo), []

    def end_prediction() -> None:
        made.append("image")
        server.one_at_a_time.release()

    server.one_at_a_time.acquire()
    threading.Timer(0.1, end_prediction).start()
    server.server_close()
    assert made == ["image"]


def test_only_this_machine_is_served_unless_told_and_then_a_line_warns(demo, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(demo_module.log, "warning", lines.append)
    assert DemoSettings().host == "127.0.0.1"
    with make_server(demo) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert not lines
        taken = Demo(demo.runs, demo.models, (), "", DemoSettings(port=server.server_port))
        with pytest.raises(UserError, match="give another port="):
            make_server(taken)
    with make_server(Demo(demo.runs, demo.models, (), "", DemoSettings(host="0.0.0.0", port=0))):
        assert "everyone on the network can use this page" in lines[0]
    assert [is_loopback(host) for host in ("localhost", "::1", "127.0.0.2", "192.168.1.2", "example.org")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_wrong_arguments_are_refused_before_a_run_is_loaded(tmp_path):
    for words, message in (
        ([], "0 runs were given"),
        (["run=a", "run=b", "run=c"], "3 runs were given"),
        (["run="], "ssss demo run=DIR"),
        (["run=a", "prot=1"], "prot"),
        (["run=a", "port=70000"], "port"),
        (["run=a", "max_upload=0"], "max_upload"),
        ([f"run={tmp_path / 'none'}"], "none"),
    ):
        with pytest.raises(UserError, match=message):
            open_demo(words)


def test_a_run_without_its_data_says_so(tmp_path):
    files, missing = find_unlabelled(str(tmp_path), [])
    assert files == ()
    assert "unlabelled images of the run are not here" in missing


@pytest.mark.slow
def test_the_page_in_a_browser(demo, tmp_path):
    """Chromium uploads an image; mask and shares appear, and no request leaves 127.0.0.1."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs `pip install selenium` and chromium-driver")
    driver = shutil.which("chromedriver")
    if driver is None:  # else Selenium looks for one on the network
        pytest.skip("needs chromium-driver")
    (tmp_path / "text.jpg").write_text("no image")
    options = webdriver.ChromeOptions()
    for word in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    service = webdriver.ChromeService(driver)
    with make_server(demo) as server, webdriver.Chrome(options=options, service=service) as browser:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        browser.implicitly_wait(20)
        browser.get(server.address)
        browser.find_element("id", "file").send_keys(str(demo.unlabelled[0]))
        assert browser.find_element("css selector", "img.mask").get_attribute("naturalWidth") == "16"
        assert len(browser.find_elements("css selector", "td.share")) == 6
        assert browser.find_element("id", "compare").is_displayed()
        browser.find_element("id", "file").send_keys(str(tmp_path / "text.jpg"))
        assert "text.jpg" in browser.find_element("css selector", "#message.error").text
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        server.shutdown()
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert any("/predict" in url for url in sent)
    assert [url for url in sent if not url.startswith((server.address, "data:"))] == []
