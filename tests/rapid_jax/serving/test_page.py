"""The page in a browser, where one is installed: it fits a telephone, uploads, asks and shows the answer."""

import shutil

import pytest

WIDTH, HEIGHT = 400, 900
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if BROWSER is None or shutil.which("chromedriver") is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        dict(width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=True),
    )
    yield driver
    driver.quit()


def until(browser, condition, seconds=60):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds).until(condition)


@pytest.mark.slow
def test_the_page_uploads_asks_and_shows_who_wrote_what(serve, browser, document_text, questions, read, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    (tmp_path / "report.txt").write_text(document_text, encoding="utf-8")
    with serve(api_key="secret", method="copy") as live:
        browser.get(live.url)

        def find(name):
            return browser.find_element(By.ID, name)

        until(browser, lambda _: find("key").is_displayed())
        find("key").send_keys("secret", Keys.ENTER)
        until(browser, lambda _: live.worker.engine.target.path.name in find("model").text)
        find("adding").find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        find("file").send_keys(str(tmp_path / "report.txt"))
        find("upload").send_keys(Keys.ENTER)
        until(browser, lambda _: "tokens read" in find("upload-state").text)
        for asked in questions[:2]:
            find("question").send_keys(asked, Keys.ENTER)
            until(browser, lambda _: find("ask").is_enabled() and not find("question").get_attribute("value"))
        turns = browser.find_elements(By.CLASS_NAME, "turn")
        assert len(turns) == 2 and not find("ask-state").text
        said = turns[0].find_element(By.CLASS_NAME, "said")
        alone = read.ask(questions[0], "copy", max_new_tokens=256)
        assert said.get_attribute("textContent").strip() == alone.text
        spans = said.find_elements(By.TAG_NAME, "span")
        assert len(spans) == sum(bool(token.text) for token in alone.trace.tokens), "each token has a colour"
        assert turns[0].find_elements(By.CSS_SELECTOR, ".legend li")
        assert "copy" in turns[0].find_element(By.CLASS_NAME, "quiet").text
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= WIDTH, "nothing sticks out of a telephone's screen"
        small = "return [...document.querySelectorAll('button, input, select')].filter(e => e.offsetParent && e.offsetHeight < 40).length"
        assert browser.execute_script(small) == 0, "a finger can hit every button"
        browser.save_screenshot(str(tmp_path / "page.png"))
        find("new").send_keys(Keys.ENTER)
        assert not browser.find_elements(By.CLASS_NAME, "turn")
        logs = [
            entry
            for entry in browser.get_log("browser")
            if entry["level"] == "SEVERE" and "401" not in entry["message"]
        ]
        assert not logs, logs
