"""The page as a person has it: opened from the disk in Chromium. One browser, one page."""

import json
import shutil
import time
from fractions import Fraction

import numpy as np
import pytest

from mg.evaluation.report import ReportWriter

from .pages import ABOUT, BROKEN, HOSTILE, VIDEOS, add, greys, write_page

webdriver = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By
ActionChains, Keys = webdriver.ActionChains, webdriver.Keys

pytestmark = pytest.mark.once

FPS = 25
NAMES = list(VIDEOS)

# The mean grey in the middle of what each player shows now: 40 + 3 t in frame t of worst.mp4.
GREYS = """return [...document.querySelectorAll("#players video")].map((video) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  canvas.getContext("2d").drawImage(video, 0, 0, 1, 1);
  return canvas.getContext("2d").getImageData(0, 0, 1, 1).data[1];
});"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium on the page."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver, Debian's chromium and chromium-driver")
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--window-size=1400,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.get(path.as_uri())
        wait_until(lambda: all(state >= 2 for state in players(browser, "readyState")))
        yield browser
    finally:
        browser.quit()


@pytest.fixture(autouse=True)
def at_the_start(browser):
    """Every test begins with the first frame of the worst video, at rest."""
    browser.execute_script("document.activeElement.blur()")
    if name_of(browser) != NAMES[0]:
        click_row(browser, NAMES[0])
    if any(paused is False for paused in players(browser, "paused")):
        click(browser, "play")
    press(browser, Keys.HOME)
    wait_until(lambda: at_frame(browser, 0))
    yield
    assert [line["message"] for line in browser.get_log("browser")] == []


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def players(browser, key):
    """A property of each of the three players, at one moment."""
    return browser.execute_script(
        f"return [...document.querySelectorAll('#players video')].map((video) => video.{key})"
    )


def at_frame(browser, frame):
    """Whether all players are at rest there, and the page says so."""
    times, seeking = players(browser, "currentTime"), players(browser, "seeking")
    there = all(int(time * FPS + 1e-3) == frame for time in times)
    return there and not any(seeking) and text_of(browser, "position").startswith(f"frame {frame} ")


def element(browser, name):
    return browser.find_element(By.ID, name)


def text_of(browser, name):
    return element(browser, name).text


def name_of(browser):
    return text_of(browser, "name")


def click(browser, name):
    element(browser, name).click()


def press(browser, *keys):
    ActionChains(browser).send_keys(*keys).perform()


def rows_of(browser):
    """The table's rows, failed ones left out."""
    return browser.find_elements(By.CSS_SELECTOR, "#rows tr")


def column(browser, place):
    return [row.find_elements(By.TAG_NAME, "td")[place].text for row in rows_of(browser)]


def click_row(browser, name):
    row = next(row for row in rows_of(browser) if row.text.startswith(name))
    row.find_elements(By.TAG_NAME, "td")[1].click()
    wait_until(lambda: all(state >= 2 for state in players(browser, "readyState")))


def click_head(browser, title):
    heads = browser.find_elements(By.CSS_SELECTOR, "th button")
    next(head for head in heads if head.text.startswith(title)).click()


def click_chart(browser, metric, part):
    """Click in a chart, `part` of the way from its first frame to its last."""
    svg = browser.find_element(By.CSS_SELECTOR, f"[data-metric={metric}] svg")
    left, right = browser.execute_script(
        "const line = arguments[0].querySelector('.grid');"
        "return [Number(line.getAttribute('x1')), Number(line.getAttribute('x2'))]",
        svg,
    )
    # An offset counts from the middle.
    offset = left + part * (right - left) - svg.size["width"] / 2
    ActionChains(browser).move_to_element_with_offset(svg, round(offset), 0).click().perform()


def cursor_part(browser, metric):
    """Where the chart marks the current frame, from 0 at the first to 1 at the last."""
    return browser.execute_script(
        "const svg = document.querySelector(`[data-metric=${arguments[0]}] svg`);"
        "const x = (node) => node.getBoundingClientRect();"
        "const line = x(svg.querySelector('.grid')), cursor = x(svg.querySelector('.cursor'));"
        "return (cursor.left + cursor.width / 2 - line.left) / line.width",
        metric,
    )


def test_it_loads_in_silence_and_fetches_nothing(browser):
    """The console is empty after every test (see `at_the_start`)."""
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert urls
    assert {url.split(":")[0] for url in urls} <= {"file", "blob", "data"}
    assert [url for url in urls if url.startswith("file")] == [browser.current_url]


def test_three_players_show_the_worst_video(browser):
    assert name_of(browser) == NAMES[0] == column(browser, 0)[0]
    assert players(browser, "error") == [None] * 3
    assert players(browser, "videoWidth") == [64] * 3
    assert players(browser, "duration") == pytest.approx([2] * 3)
    titles = browser.find_elements(By.CSS_SELECTOR, "#players figcaption")
    assert [title.text for title in titles] == ["Original", "Reconstruction", "Difference ×8"]
    width = browser.execute_script("return innerWidth")
    assert all(300 < screen.size["width"] < width / 3 for screen in screens(browser))


def screens(browser):
    return browser.find_elements(By.CLASS_NAME, "screen")


def test_they_play_and_pause_in_step(browser):
    click(browser, "play")
    assert element(browser, "play").get_attribute("aria-label") == "Pause"
    apart, times = [], []
    wait_until(lambda: players(browser, "currentTime")[0] > 0.2)
    for _ in range(12):
        now = players(browser, "currentTime")
        apart.append((max(now) - min(now)) * FPS)
        times.append(now[0])
        time.sleep(0.05)
    assert max(apart) < 1, apart
    assert len(set(times)) > 5
    click(browser, "play")
    assert players(browser, "paused") == [True] * 3
    frame = int(text_of(browser, "position").split()[1])
    assert frame > 0
    wait_until(lambda: at_frame(browser, frame))


@pytest.mark.parametrize("late", [2 / FPS, 0.6], ids=["two frames", "much"])
def test_those_that_fall_behind_catch_up(browser, late):
    """As after a hiccup of a decoder, of which the page is not told."""
    click(browser, "play")
    wait_until(lambda: 0.7 < players(browser, "currentTime")[0] < 1)
    apart = browser.execute_script(
        "const [first, , late] = players.screens;"
        "players.targets[2] = late.currentTime = late.currentTime - arguments[0];"
        "return first.currentTime - late.currentTime",
        late,
    )
    assert apart * FPS > 1
    time.sleep(0.8)
    now = players(browser, "currentTime")
    assert (max(now) - min(now)) * FPS < 1


def test_play_goes_round_or_stops_at_the_end(browser):
    press(browser, Keys.END)
    press(browser, Keys.ARROW_LEFT * 6)
    wait_until(lambda: at_frame(browser, 43))
    click(browser, "play")
    wait_until(lambda: 0 < players(browser, "currentTime")[0] < 1)
    assert players(browser, "paused") == [False] * 3
    click(browser, "play")
    click(browser, "loop")
    try:
        press(browser, Keys.END)
        press(browser, Keys.ARROW_LEFT * 3)
        wait_until(lambda: at_frame(browser, 46))
        click(browser, "play")
        # The button says so until they have begun; at the last frame they are before they end.
        wait_until(
            lambda: (
                at_frame(browser, 49)
                and element(browser, "play").get_attribute("aria-label") == "Play"
            )
        )
    finally:
        click(browser, "loop")


def test_every_step_shows_its_frame(browser):
    for frame in range(1, 6):
        click(browser, "forth")
        wait_until(lambda frame=frame: at_frame(browser, frame))
        wait_until(lambda level=40 + 3 * frame: abs(shown(browser)[0] - level) < 1.5)
    click(browser, "back")
    wait_until(lambda: at_frame(browser, 4))
    wait_until(lambda: abs(shown(browser)[0] - 52) < 1.5)


def shown(browser):
    return browser.execute_script(GREYS)


def test_scrubber_and_charts_and_one_player_move_all(browser):
    browser.execute_script(
        "const scrubber = document.getElementById('scrubber'); scrubber.value = 30;"
        "scrubber.dispatchEvent(new Event('input'))"
    )
    wait_until(lambda: at_frame(browser, 30))
    assert cursor_part(browser, "psnr") == pytest.approx(30 / 49, abs=0.01)
    for metric, frame in (("psnr", 10), ("ssim", 35), ("lpips", 49)):
        click_chart(browser, metric, frame / 49)
        wait_until(lambda frame=frame: at_frame(browser, frame))
        for other in ("psnr", "ssim", "lpips"):
            assert cursor_part(browser, other) == pytest.approx(frame / 49, abs=0.01)
    for frame, role in enumerate(("original", "reconstruction", "difference"), start=20):
        browser.execute_script(
            "document.getElementById(arguments[0]).currentTime = arguments[1]",
            role,
            (frame + 0.3) / FPS,
        )
        wait_until(lambda frame=frame: at_frame(browser, frame))


def test_charts_say_the_frames_numbers(browser):
    """The noise grows with time: the last frame is the worst."""
    figure = browser.find_element(By.CSS_SELECTOR, "[data-metric=psnr]")
    first = float(figure.find_element(By.TAG_NAME, "output").text.split()[0])
    worst = figure.find_element(By.CLASS_NAME, "worst")
    assert worst.text.endswith(" dB at frame 49")
    worst.click()
    wait_until(lambda: at_frame(browser, 49))
    last = figure.find_element(By.TAG_NAME, "output").text
    assert worst.text == f"{last} at frame 49"
    assert float(last.split()[0]) < first
    line = figure.find_element(By.CSS_SELECTOR, ".series").get_attribute("d")
    assert line.count("L") == 49


def test_heads_sort_both_ways(browser):
    assert column(browser, 0) == NAMES  # worst first
    for title, place, key in (("Frames", 1, int), ("SSIM", 3, float), ("LPIPS", 4, float)):
        orders = []
        for _ in range(2):
            click_head(browser, title)
            orders.append([key(value) for value in column(browser, place)])
        worst_is_low = title == "SSIM"
        assert orders[0] == sorted(orders[0], reverse=not worst_is_low)
        assert orders[1] == orders[0][::-1]
    click_head(browser, "Video")
    names = column(browser, 0)
    assert names.index("dir/odd9.mp4") < names.index("dir/odd10.mp4")  # 9 comes before 10
    click_head(browser, "PSNR")
    assert column(browser, 0) == NAMES
    sorted_by = browser.find_elements(By.CSS_SELECTOR, "th[aria-sort]")
    assert [head.text for head in sorted_by] == ["PSNR"]
    assert sorted_by[0].get_attribute("aria-sort") == "ascending"


def test_a_click_on_a_row_changes_the_players(browser):
    press(browser, Keys.END, Keys.ARROW_LEFT * 12)  # a frame that the other video does not have
    click(browser, "play")
    click_row(browser, "dir/odd9.mp4")
    wait_until(lambda: at_frame(browser, 0))
    assert name_of(browser) == "dir/odd9.mp4"
    assert players(browser, "paused") == [True] * 3
    assert players(browser, "duration") == pytest.approx([20 / FPS] * 3)
    assert "32 × 31, 20 frames" in text_of(browser, "facts")
    current = [row for row in rows_of(browser) if row.get_attribute("aria-current")]
    assert [row.text.split()[0] for row in current] == ["dir/odd9.mp4"]
    click(browser, "play")
    wait_until(lambda: players(browser, "currentTime")[0] > 0.2)


def test_odd_sizes_are_shown_without_what_was_added(browser):
    click_row(browser, "dir/odd10.mp4")
    assert players(browser, "videoWidth") == [48] * 3
    assert players(browser, "videoHeight") == [34] * 3
    screen, video = screens(browser)[0], element(browser, "original")
    assert screen.size["width"] / screen.size["height"] == pytest.approx(47 / 33, rel=0.01)
    assert video.size["width"] / screen.size["width"] == pytest.approx(48 / 47, rel=0.01)
    assert video.size["height"] / screen.size["height"] == pytest.approx(34 / 33, rel=0.01)


def test_names_are_readable_in_a_narrow_window(browser):
    browser.set_window_size(500, 900)
    try:
        assert rows_of(browser)[0].find_element(By.TAG_NAME, "td").size["width"] > 150
    finally:
        browser.set_window_size(1400, 900)


def test_an_image_is_a_video_that_does_not_play(browser):
    click_row(browser, HOSTILE[0])
    assert "1 frame," in text_of(browser, "facts")
    assert not element(browser, "play").is_enabled()
    press(browser, " ", Keys.ARROW_RIGHT)
    assert players(browser, "paused") == [True] * 3
    assert text_of(browser, "position").startswith("frame 0 / 0 ")
    assert min(shown(browser)) > 0


def test_names_are_text(browser):
    for name in HOSTILE:
        click_row(browser, name)
        assert name_of(browser) == name
        assert name in column(browser, 0)
    assert browser.execute_script("return document.images.length") == 0


def test_a_script_that_comes_in_by_a_name_would_not_run(browser):
    """Were one not escaped after all."""
    browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        "document.body.append(script)"
    )
    assert browser.execute_script("return window.ran") is None
    messages = [line["message"] for line in browser.get_log("browser")]
    assert len(messages) == 1 and "Content Security Policy" in messages[0]


def test_failed_videos_are_at_the_end_with_their_reason(browser):
    (row,) = browser.find_elements(By.CSS_SELECTOR, "#failed tr")
    assert row.text == f"{BROKEN} {BROKEN}: is <empty>"
    click_head(browser, "PSNR")
    table = browser.find_element(By.TAG_NAME, "table")
    assert table.text.splitlines()[-1] == row.text
    click_head(browser, "PSNR")


def test_keys_play_step_and_select(browser):
    press(browser, Keys.ARROW_RIGHT * 12, Keys.ARROW_LEFT * 10)
    wait_until(lambda: at_frame(browser, 2))
    press(browser, Keys.END)
    wait_until(lambda: at_frame(browser, 49))
    press(browser, Keys.HOME, " ")
    wait_until(lambda: players(browser, "currentTime")[0] > 0.1)
    assert players(browser, "paused") == [False] * 3
    press(browser, " ")
    assert players(browser, "paused") == [True] * 3
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert name_of(browser) == NAMES[2]
    press(browser, Keys.ARROW_UP)
    assert name_of(browser) == NAMES[1]


def test_a_click_does_not_take_the_space_bar(browser):
    click(browser, "forth")
    for _ in range(2):
        browser.find_element(By.XPATH, "//label[contains(., 'Loop')]").click()
    click_head(browser, "PSNR")
    click_head(browser, "PSNR")
    press(browser, " ")
    wait_until(lambda: players(browser, "currentTime")[0] > 0.3)
    assert players(browser, "paused") == [False] * 3
    assert column(browser, 0) == NAMES


def test_speed_is_that_of_all(browser):
    choice = element(browser, "speed")
    choice.find_element(By.CSS_SELECTOR, "[value='0.25']").click()
    try:
        click(browser, "play")
        assert players(browser, "playbackRate") == pytest.approx([0.25] * 3, rel=0.25)
    finally:
        choice.find_element(By.CSS_SELECTOR, "[value='1']").click()


def test_everything_that_acts_has_a_name(browser):
    names = browser.execute_script(
        "return [...document.querySelectorAll('button, input, select, video, svg[role]')].map("
        "(node) => node.ariaLabel || node.innerText || node.closest('label')?.innerText)"
    )
    assert len(names) > 15
    assert all(names)


def test_the_address_names_a_video(browser):
    browser.execute_script("location.hash = '#video-3'")
    wait_until(lambda: name_of(browser) == NAMES[3])
    browser.execute_script("location.hash = '#video-99'")
    assert name_of(browser) == NAMES[3]


def test_a_film_has_charts_and_a_page_of_failures_loads(browser, tmp_path):
    with ReportWriter(tmp_path / "film.html", budget=10_000) as report:
        with report.video("film.mp4", fps=25) as video:
            for _ in range(13):
                frames = np.zeros((10_000, 8, 8, 3), np.uint8)
                video.add(frames, frames, {"psnr": np.arange(10_000.0), "ssim": np.ones(10_000)})
        report.write(**ABOUT)
    with ReportWriter(tmp_path / "failures.html") as report:
        report.failed("a.mp4", "is no video")
        report.write(**ABOUT)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        browser.get((tmp_path / "film.html").as_uri())
        assert len(browser.find_elements(By.CSS_SELECTOR, "path.series")) == 2
        browser.get((tmp_path / "failures.html").as_uri())
        assert "is no video" in browser.page_source
    finally:
        browser.close()
        browser.switch_to.window(first)


def test_frames_are_found_at_any_frame_rate(browser, tmp_path):
    rates = [Fraction(30000, 1001), Fraction(10, 3), 120]
    with ReportWriter(tmp_path / "report.html") as report:
        for rate in rates:
            add(report, f"{rate}.mp4", greys(40), greys(40), fps=rate)
        report.write(**ABOUT)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        browser.get((tmp_path / "report.html").as_uri())
        for rate in rates:
            if name_of(browser) != f"{rate}.mp4":
                click_row(browser, f"{rate}.mp4")
            for part in (1, 0.5, 0):
                click_chart(browser, "psnr", part)
                level = 40 + 3 * int(text_of(browser, "position").split()[1])
                wait_until(
                    lambda level=level: shown(browser)[:2] == pytest.approx([level] * 2, abs=1.5)
                )
    finally:
        browser.close()
        browser.switch_to.window(first)
