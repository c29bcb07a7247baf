import pickle
import pickletools

import pytest

from mg.data import Entry, check_some_there, read_entries, read_index
from mg.data.index import Entries


def test_names_come_in_the_order_of_the_csv(tmp_path):
    path = tmp_path / "index.csv"
    path.write_text('video,label\nb/2.mp4,x\n\n"a, 1.mp4",y\n/abs/3.mp4,z\n../4.mp4,\n')
    assert read_index(path, tmp_path) == ["b/2.mp4", "a, 1.mp4", "/abs/3.mp4", "../4.mp4"]


def test_column_can_be_chosen_and_spreadsheet_text_is_read(tmp_path):
    path = tmp_path / "index.csv"
    path.write_bytes("\ufeffclip, label\r\nvidéo.mp4, x\r\n".encode())
    assert read_index(path, tmp_path, video_column="clip") == ["vidéo.mp4"]


def test_stated_numbers_of_frames_come_with_the_names_and_may_be_blank(tmp_path):
    path = tmp_path / "index.csv"
    path.write_text("frames,video\n12,a.mp4\n,b.mp4\n 007 ,c.mp4\n")
    entries = [Entry("a.mp4", 12), Entry("b.mp4", None), Entry("c.mp4", 7)]
    assert read_entries(path, tmp_path) == entries
    assert read_index(path, tmp_path) == ["a.mp4", "b.mp4", "c.mp4"]
    path.write_text("video\na.mp4\n")
    assert read_entries(path, tmp_path) == [Entry("a.mp4", None)]


def test_names_in_a_column_called_frames_are_no_numbers(tmp_path):
    path = tmp_path / "index.csv"
    path.write_text("frames\na.mp4\n")
    assert read_entries(path, tmp_path, "frames") == [Entry("a.mp4", None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column 'video'; its columns are: none"),
        (b"video\n", "names no video"),
        (b"path,label\na.mp4,1\n", "no column 'video'; its columns are: path, label"),
        (b"label,video\n1,a.mp4\n2,\n", "line 3: no name in column 'video'"),
        (b"label,video\n1,a.mp4\n2\n", "line 3: no name in column 'video'"),
        (b"video\na\0.mp4\n", "NUL"),
        (b"video\n\xff\xfe.mp4\n", "not a CSV file of UTF-8 text"),
        (b"video,frames\na.mp4,3\nb.mp4,0\n", "line 3: '0' in column 'frames', expected a whole"),
        (b"video,frames\na.mp4,-4\n", "line 2: '-4' in column 'frames'"),
        (b"video,frames\na.mp4,12.5\n", "line 2: '12.5' in column 'frames'"),
        (b"video,frames\na.mp4,many\n", "line 2: 'many' in column 'frames'"),
        (b"video,frames\na.mp4,1_0\n", "line 2: '1_0' in column 'frames'"),
        (b"video,frames\na.mp4,9999999999\n", "line 2: '9999999999' in column 'frames'"),
    ],
)
def test_flaw_of_the_csv_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "index.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_index(path, tmp_path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_csv_and_missing_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv: no such CSV file"):
        read_index(tmp_path / "none.csv", tmp_path)
    (tmp_path / "index.csv").write_text("video\na.mp4\n")
    with pytest.raises(FileNotFoundError, match="nowhere: no such video folder"):
        read_index(tmp_path / "index.csv", tmp_path / "nowhere")


def test_a_data_set_of_which_nothing_is_there_is_refused_in_one_line(tmp_path):
    names = ["a/1.mp4", "b.mp4"]
    (tmp_path / "a" / "1.mp4").mkdir(parents=True)  # a folder is no video
    expected = f"^x.csv: none of its 2 videos is there, expected them in {tmp_path}; the first: a/1"
    with pytest.raises(ValueError, match=expected):
        check_some_there("x.csv", tmp_path, names)
    (tmp_path / "b.mp4").touch()
    check_some_there("x.csv", tmp_path, names)
    check_some_there("x.csv", tmp_path / "a", [str(tmp_path / "b.mp4")])


def test_entries_by_number_are_those_of_the_list(rng):
    lengths = rng.integers(1, 30, 50)
    listed = [Entry("ü" * int(n), int(n) if n % 2 else None) for n in lengths]
    entries = pickle.loads(pickle.dumps(Entries(listed)))
    assert len(entries) == len(listed)
    assert [*entries] == listed
    assert [entries[number] for number in range(len(listed))] == listed


def test_entries_are_sent_to_a_process_as_few_objects():
    listed = [Entry(f"folder/{number:09}.mp4", 17) for number in range(20_000)]
    assert sum(1 for _ in pickletools.genops(pickle.dumps(Entries(listed)))) < 200
