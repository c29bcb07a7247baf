"""The page as a file; test_report_in_browser.py opens it."""

import contextlib
import math
import re

import numpy as np
import pytest
from cli.support import waves
from data.full_disk import small_disk

from mg.data import count_frames, read_fps, read_frames
from mg.evaluation.report import ReportWriter
from mg.evaluation.report_video import ReportVideo, difference

from .pages import (
    ABOUT,
    BROKEN,
    HOSTILE,
    VARIES,
    VIDEOS,
    add,
    read_page,
    scores_of,
    sizes_of,
    spoiled,
    write_page,
)

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("report") / "deep" / "report.html"


@pytest.fixture(scope="module")
def scores(path):
    return write_page(path)


@pytest.fixture(scope="module")
def page(path, scores):
    return read_page(path)


def names_of(page):
    return [video["name"] for video in page.data["videos"]]


def test_the_table_has_every_number_worst_first_and_the_failed_last(page, scores):
    rows = [row for row in page.rows if row]
    for row, (name, values) in zip(rows, scores.items(), strict=False):
        psnr, ssim, lpips = (values[key].mean() for key in ("psnr", "ssim", "lpips"))
        numbers = [f"{psnr:.2f}", f"{ssim:.4f}", f"{lpips:.4f}", f"{values['psnr'].min():.2f}"]
        assert row == [name, str(len(values["psnr"])), *numbers]
    assert rows[-1] == [BROKEN, f"{BROKEN}: is <empty>"]
    assert len(rows) == len(scores) + 1
    means = [values["psnr"].mean() for values in scores.values()]
    assert means == sorted(means)


def test_every_frame_has_its_scores(page, scores):
    assert names_of(page) == list(scores)
    for video in page.data["videos"]:
        for key, values in scores[video["name"]].items():
            assert video["scores"][key] == pytest.approx(values, abs=1e-5)


def test_it_says_what_was_measured_by_what(path):
    text = path.read_text()
    for expected in (ABOUT["checkpoint"], ABOUT["checkpoint_sha256"], "num_frames", "[1, 2]"):
        assert expected in text
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", text)


def test_nothing_is_fetched(path, page):
    text = re.sub(r"<script type=.text/plain.*?</script>", "", path.read_text(), flags=re.DOTALL)
    assert "<!doctype html>" in text and "class Players" in text
    assert not re.search(r"https?:|[^:]//[a-z]|@import|url\(|fetch\(|XMLHttpRequest", text)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith(("#", "data:")) for value in sources)
    assert "default-src 'none'" in dict(page.attributes)["content"]


def test_names_are_text(path, page, scores):
    assert HOSTILE[0] in names_of(page) and HOSTILE[1] in names_of(page)
    assert not {"img", "b", "i", "empty"} & set(page.tags)
    assert path.read_text().count("<script>") == 1
    assert "<i>" not in path.read_text()


def test_names_that_are_no_text_or_bend_it_can_be_written(tmp_path):
    names = ["\udcff.mp4", "\u202egnp.mp4", "名.mp4", "{{ 7 * 7 }}{% x %}", ""]
    with ReportWriter(tmp_path / "report.html") as report:
        for name in names:
            add(report, name, waves(0, 1), waves(1, 1))
        report.write(**ABOUT)
    assert sorted(names_of(read_page(tmp_path / "report.html"))) == sorted(names)


def test_clips_are_the_videos_in_what_every_browser_plays(page, scores, tmp_path):
    """worst.mp4 and odd10.mp4, of an even and of an odd size."""
    import av

    for number, name in ((0, "worst.mp4"), (2, "dir/odd10.mp4")):
        frames, noise = VIDEOS[name]
        test = spoiled(frames, noise)
        expected = (frames, test, difference(frames, test))
        for role, true in zip(("original", "reconstruction", "difference"), expected, strict=True):
            file = tmp_path / f"{role}.mp4"
            file.write_bytes(page.clips[f"{role}-{number}"])
            with av.open(str(file)) as container:
                codec = container.streams.video[0].codec_context
                assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
            assert count_frames(file) == len(frames)
            assert read_fps(file) == 25
            shown = read_frames(file, range(len(frames)))
            height, width = frames.shape[1:3]
            assert shown.shape[1:3] == (height + height % 2, width + width % 2)
            error = shown[:, :height, :width].mean((1, 2, 3)) - true.mean((1, 2, 3))
            # Colours are stored at half size, which shows in the saturated noise of a difference.
            assert np.abs(error).max() < (6 if role == "difference" else 3), role


def test_difference_is_eight_times_the_error_either_way():
    frames = np.array([100, 100, 100, 0, 255], np.uint8).reshape(1, 1, 5, 1).repeat(3, 3)
    other = np.array([100, 103, 97, 255, 0], np.uint8).reshape(1, 1, 5, 1).repeat(3, 3)
    assert difference(frames, other)[0, 0, :, 0].tolist() == [0, 24, 24, 255, 255]


def test_pieces_do_not_matter(tmp_path):
    frames = waves(0, 20)
    pages = []
    for piece in (1, 7, 20):
        with ReportWriter(tmp_path / "report.html") as report:
            add(report, "a.mp4", frames, spoiled(frames, 5), piece=piece)
            report.write(**ABOUT)
        pages.append(read_page(tmp_path / "report.html"))
    assert pages[0].data == pages[1].data == pages[2].data
    for page in pages[1:]:
        assert sizes_of(page) == pytest.approx(sizes_of(pages[0]), rel=VARIES)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_beyond_the_budget_the_worst_have_players(tmp_path, order):
    """Whatever the order in which they come; the page says so."""
    frames = waves(0, 8, 64, 64)
    reconstructions = {f"{size}.mp4": spoiled(frames, size) for size in (40, 20, 10, 5)}
    budget, path = 400_000, tmp_path / "report.html"
    with ReportWriter(path, budget=budget) as report:
        for index in order:
            name = list(reconstructions)[index]
            add(report, name, frames, reconstructions[name])
        sizes = {video.name: video.size for video in report.videos}
    ordered = [sizes[name] for name in reconstructions]
    # The third has no room, and so the fourth has none.
    budget = round(sum(ordered[:3]) * (1 - VARIES))
    with ReportWriter(path, budget=budget) as report:
        for index in order:
            name = list(reconstructions)[index]
            add(report, name, frames, reconstructions[name])
        report.write(**ABOUT)
    page = read_page(path)
    assert names_of(page) == list(reconstructions)
    assert [bool(video["playable"]) for video in page.data["videos"]] == [True, True, False, False]
    size = sum(map(len, page.clips.values()))
    assert size == pytest.approx(sum(ordered[:2]), rel=VARIES) and size <= budget
    assert "Players for the worst 2 of 4 videos" in path.read_text()


def test_a_long_video_has_all_numbers_and_players_of_its_first_frames(tmp_path):
    rng = np.random.default_rng(0)
    budget = 3_000_000
    with ReportWriter(tmp_path / "report.html", budget=budget) as report:
        with report.video("long.mp4", 25) as video:
            for _ in range(100):
                frames = rng.integers(0, 256, (8, 64, 64, 3), np.uint8)  # compresses badly
                video.add(frames, frames // 2, {"psnr": np.full(8, 9.0), "ssim": np.zeros(8)})
        report.write(**ABOUT)
    page = read_page(tmp_path / "report.html")
    (video,) = page.data["videos"]
    assert video["frames"] == len(video["scores"]["psnr"]) == 800
    assert 0 < video["playable"] < 800
    assert budget / 2 < sum(map(len, page.clips.values())) <= budget
    for role in ("original", "reconstruction", "difference"):
        (tmp_path / "clip.mp4").write_bytes(page.clips[f"{role}-0"])
        assert count_frames(tmp_path / "clip.mp4") == video["playable"]


def test_of_very_many_videos_the_worst_have_rows(tmp_path, monkeypatch):
    """The means and the counts are of all, and the page says what it leaves out."""
    monkeypatch.setattr("mg.evaluation.report.ROWS", 2)
    frames = waves(0, 2, 16, 16)
    path = tmp_path / "report.html"
    with ReportWriter(path) as report:
        for psnr in (30, 10, 40, 20):
            with report.video(f"{psnr}.mp4", 25) as video:
                scores = {"psnr": np.full(2, float(psnr)), "ssim": np.ones(2)}
                video.add(frames, frames, scores)
        for number in range(3):
            report.failed(f"bad{number}.mp4", "is no video")
        report.write(**ABOUT)
    page, text = read_page(path), path.read_text("utf-8")
    assert names_of(page) == ["10.mp4", "20.mp4"]
    assert "The table has the worst 2 videos and the first 2 that failed" in text
    assert re.search(r"<dt>Videos</dt><dd>4</dd>", text)
    assert re.search(r"<dt>PSNR</dt><dd>25.00 ", text)
    assert "bad1.mp4" in text
    assert "bad2.mp4" not in text


def test_without_a_budget_there_are_numbers_alone(tmp_path):
    with ReportWriter(tmp_path / "report.html", budget=0) as report:
        add(report, "a.mp4", waves(0), spoiled(waves(0), 5))
        report.write(**ABOUT)
    page = read_page(tmp_path / "report.html")
    assert (page.data["videos"][0]["playable"], page.clips) == (0, {})


def test_what_is_no_number_is_shown_as_missing(tmp_path):
    frames = waves(0, 3)
    with ReportWriter(tmp_path / "report.html") as report:
        for name, values in (("nan", [1, math.nan, 3]), ("inf", [math.inf] * 3), ("fine", [9] * 3)):
            with report.video(name, 25) as video:
                video.add(frames, frames, {"psnr": np.array(values), "ssim": np.ones(3)})
        report.write(**ABOUT)
    page = read_page(tmp_path / "report.html")
    assert names_of(page) == ["fine", "nan", "inf"]
    assert page.data["videos"][1]["scores"]["psnr"] == [1, None, 3]
    assert [row[2] for row in page.rows if row] == ["9.00", "–", "–"]


def test_no_video_but_failed_ones(tmp_path):
    with ReportWriter(tmp_path / "report.html") as report:
        report.failed("a.mp4", "is empty")
        report.write(**ABOUT)
    assert [row for row in read_page(tmp_path / "report.html").rows if row] == [
        ["a.mp4", "is empty"]
    ]


def test_processes_hand_their_videos_over(path, page, tmp_path):
    """Two writers of one page, as two processes have them, make the page that one makes."""
    first, second = waves(0, 5), waves(1, 5)
    target = tmp_path / "report.html"
    with ReportWriter(target) as one, ReportWriter(target) as other:
        add(one, "a.mp4", first, spoiled(first, 5))
        add(other, "b.mp4", second, spoiled(second, 20))
        other.failed("c.mp4", "is empty")
        one.take_over(other.hand_over())
        one.write(**ABOUT)
    with ReportWriter(tmp_path / "alone.html") as alone:
        add(alone, "a.mp4", first, spoiled(first, 5))
        add(alone, "b.mp4", second, spoiled(second, 20))
        alone.failed("c.mp4", "is empty")
        alone.write(**ABOUT)
    together, alone = read_page(target), read_page(tmp_path / "alone.html")
    assert (together.data, together.rows) == (alone.data, alone.rows)
    assert sizes_of(together) == pytest.approx(sizes_of(alone), rel=VARIES)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["alone.html", "report.html"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_interrupted_at_any_place_it_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "report.html"
    target.write_text("the page before")
    frames = waves(0, 8)

    class Settings(dict):
        def items(self):
            raise error

    def in_video(report):
        with report.video("b.mp4", 25) as video:
            video.add(frames, frames, scores_of(frames, frames))
            raise error

    def between(report):
        add(report, "b.mp4", frames, frames)
        raise error

    def in_page(report):
        report.write(**ABOUT | {"settings": Settings()})

    for place in (in_video, between, in_page):
        with pytest.raises(error), ReportWriter(target) as report:
            add(report, "a.mp4", frames, spoiled(frames, 5))
            place(report)
        assert [file.name for file in tmp_path.iterdir()] == ["report.html"], place
        assert target.read_text() == "the page before"


def test_a_clip_that_is_lost_before_the_page_is_written_leaves_no_page(tmp_path):
    with pytest.raises(FileNotFoundError), ReportWriter(tmp_path / "report.html") as report:
        add(report, "a.mp4", waves(0), waves(1))
        next(tmp_path.rglob("original.mp4")).unlink()
        report.write(**ABOUT)
    assert not list(tmp_path.iterdir())


def test_a_page_on_a_full_disk_is_named(tmp_path):
    with (
        small_disk(tmp_path / "disk", "256k") as disk,
        pytest.raises(OSError, match=r"disk/report\.html: cannot be written: No space left"),
        ReportWriter(disk / "report.html") as report,
    ):
        add(report, "a.mp4", waves(0), waves(1))
        with contextlib.suppress(OSError), open(disk / "filled", "wb", buffering=0) as filled:
            while filled.write(bytes(4096)):
                pass
        report.write(**ABOUT)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"original": waves(0).astype(np.float32)}, "float32"),
        ({"reconstruction": waves(0, 6, 16, 18)}, "(6, 16, 18, 3)"),
        ({"original": waves(0)[0]}, "(16, 16, 3)"),
        ({"reconstruction": waves(0, 5)}, "[5, 6]"),
        ({"scores": {"psnr": np.ones(5), "ssim": np.ones(6)}}, "[5, 6]"),
        ({"scores": {"ssim": np.ones(6)}}, "psnr"),
        ({"scores": {"psnr": np.ones(6), "vmaf": np.ones(6)}}, "vmaf"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, change, expected):
    fitting = {"original": waves(0), "reconstruction": waves(1)}
    fitting["scores"] = {"psnr": np.ones(6), "ssim": np.ones(6)}
    for before in (False, True):
        with (
            pytest.raises(ValueError, match=r"^a\.mp4: ") as raised,
            ReportWriter(tmp_path / "report.html") as report,
            report.video("a.mp4", 25) as video,
        ):
            if before:
                video.add(**fitting)
            video.add(**fitting | change)
        assert expected in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_video_without_frames_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match=r"a\.mp4: no frame"),
        ReportWriter(tmp_path / "report.html") as report,
        report.video("a.mp4", 25),
    ):
        pass


def test_the_worst_frame_has_the_lowest_psnr_and_the_highest_lpips():
    video = ReportVideo("a", scores={"psnr": [30.0, None, 20.0], "lpips": [0.1, None, 0.2]})
    assert (video.worst("psnr"), video.worst("lpips")) == (20.0, 0.2)


def test_a_name_that_is_no_text_is_shown_by_its_bytes(tmp_path):
    with ReportWriter(tmp_path / "report.html") as report:
        report.failed("\udcff.mp4", "is no video")
        report.write(**ABOUT)
    assert "\\udcff.mp4" in (tmp_path / "report.html").read_text()
