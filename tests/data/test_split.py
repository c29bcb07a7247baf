import pytest

from mg.data.split import group_of, read_lists, split_by_group, split_by_lists

PATTERN = r"_(g\d+)_c\d+"


def ucf_names(classes=6, groups=25, clips=4):
    return [
        f"Class{c}/v_Class{c}_g{g:02}_c{n:02}.avi"
        for c in range(classes)
        for g in range(1, groups + 1)
        for n in range(1, clips + 1)
    ]


def groups_of(names):
    return {group_of(name, PATTERN) for name in names}


def test_a_groups_clips_are_never_parted_and_every_video_is_in_one_set():
    names = ucf_names()
    split = split_by_group(names, PATTERN, 0.2, 0.05)
    assert sorted([*split.train, *split.val, *split.test]) == sorted(names)
    groups = [groups_of(part) for part in split]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_shares_are_reached_and_passed_by_less_than_a_group():
    names = ucf_names()
    for test_share, val_share in ((0.2, 0.05), (0.5, 0.1), (0.01, 0.3)):
        split = split_by_group(names, PATTERN, test_share, val_share)
        for part, share in ((split.test, test_share), (split.val, val_share)):
            assert 0 <= len(part) - share * len(names) < len(names) / 25
    split = split_by_group([f"{n}.mp4" for n in range(1000)], PATTERN, 0.2, 0.05)
    assert [len(part) for part in split] == [750, 50, 200]


def test_the_split_depends_on_names_alone():
    names = ucf_names(2, 5, 2)
    split = split_by_group(names, PATTERN, 0.2, 0.05)
    assert split == split_by_group(reversed(names), PATTERN, 0.2, 0.05)
    # `printf g01 | sha256sum` and so on, sorted, begins with these two.
    assert groups_of(split.test) == {"g01"}
    assert groups_of(split.val) == {"g03"}


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (4, [2, 1, 1])]
)
def test_tiny_sets_leave_something_to_train_on(count, sizes):
    split = split_by_group([f"{n}.mp4" for n in range(count)], PATTERN, 0.2, 0.05)
    assert [len(part) for part in split] == sizes


def test_no_share_is_an_empty_set():
    split = split_by_group(ucf_names(), PATTERN, 0, 0)
    assert [len(part) for part in split] == [600, 0, 0]


def test_groups_are_what_the_pattern_finds_in_the_file_name():
    assert group_of("A/v_A_g07_c01.avi", PATTERN) == "g07"
    assert group_of("B/v_B_g07_c02.avi", PATTERN) == "g07"
    assert group_of("x_g07_c01/plain.mp4", PATTERN) == "x_g07_c01/plain.mp4"
    assert group_of("a/film7_scene2.mp4", "film[0-9]+") == "film7"
    assert group_of("a/7-x-2.mp4", "([0-9]+)-x-([0-9]+)") == "7\n2"
    assert group_of("a/7.mp4", "([0-9]+)|(x)") == "7\n"


def test_official_lists_are_kept_and_validation_is_taken_of_the_training_list():
    names = ucf_names(2, 10, 2)
    test = {name for name in names if int(name.split("_g")[1][:2]) <= 3}
    train = set(names) - test
    split = split_by_lists([*names[1:], "unlisted.avi"], train, test, PATTERN, 0.1)
    assert split.test == test - {names[0]}
    assert split.train | split.val == train
    assert len(split.val) == 4 and len(groups_of(split.val)) == 1
    assert not groups_of(split.val) & groups_of(split.train)


def write_lists(folder, train="A/v_A_g08_c01.avi 1\n", test="A/v_A_g01_c01.avi\n"):
    (folder / "trainlist02.txt").write_text(train)
    (folder / "testlist02.txt").write_text(test)
    return folder


def test_official_lists_are_read_with_and_without_labels(tmp_path):
    write_lists(tmp_path, "A/v_A_g08_c01.avi 1\r\nB/with space g09.avi 12\n\n", "A/x.avi\n")
    train, test = read_lists(tmp_path, 2)
    assert train == {"A/v_A_g08_c01.avi", "B/with space g09.avi"}
    assert test == {"A/x.avi"}


def test_flaws_of_the_lists_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder of split files"):
        read_lists(tmp_path / "nowhere", 1)
    with pytest.raises(FileNotFoundError, match="trainlist03.txt: no such split file"):
        read_lists(write_lists(tmp_path), 3)
    with pytest.raises(ValueError, match="testlist02.txt: names no video"):
        read_lists(write_lists(tmp_path, test="\n"), 2)
    with pytest.raises(ValueError, match="a.avi is in both"):
        read_lists(write_lists(tmp_path, "a.avi 1\n", "a.avi\n"), 2)
