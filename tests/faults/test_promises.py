"""Which test proves which behaviour, and that the pages promise nothing without one.

`BEHAVIOURS` lists what broken and hostile input once did, and the tests that show that it no longer does.
"""

import ast
import collections
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

BEHAVIOURS = {
    1: ("a model file ran code", ["model_files: what_a_header_names_is_not_followed"]),
    2: (
        "a model file opened the network",
        ["model_files: online_with_every_yes_given_nothing_is_run_asked_or_looked_up"],
    ),
    3: ("a training hung on a small /dev/shm", ["training: batches_arrive_where_shared_memory_is_small_or_read_only"]),
    4: ("half a video passed for a whole one", ["predict_faults: half_a_video_is_never_taken_for_finished"]),
    5: ("a video and a folder of its name shared results", ["predict_faults: a_video_beside_a_folder_of_its_name"]),
    6: (
        "cut and exchanged pictures of a set were trained on",
        ["prepared_sets: a_truncated_file_is_named", "prepared_sets: a_file_replaced_by_another_frame_s_is_named"],
    ),
    7: ("scores were lost with the output", ["evaluate_faults: output_that_cannot_be_printed_costs_no_scores"]),
    8: (
        "two trainings wrote to one folder",
        ["training: a_second_training_in_the_folder_is_refused_and_changes_nothing_and_a_killed_one_leaves_no_lock"],
    ),
    9: (
        "nothing was learnt, in silence",
        [
            "training: a_source_without_a_labelled_pixel_of_the_trained_classes_is_refused",
            "prepared_sets: a_label_of_16_bits_or_in_colours_is_refused",
            "prepared_sets: a_label_of_another_size_is_refused",
        ],
    ),
    10: ("a set took in its own output", ["folders_and_settings: a10_prepare_never_takes_its_own_output"]),
    11: (
        "a pipe or device among the files was read",
        [
            "folders_and_settings: a11_prepare_names_pipes_sockets_devices_and_loops_and_leaves_them_out",
            "prepared_sets: a_pipe_in_place_of_a_file_does_not_wait",
        ],
    ),
    12: (
        "sizes in a header were allocated before they were compared",
        ["model_files: sizes_are_compared_before_anything_is_allocated"],
    ),
    13: ("an index led out of its set", ["prepared_sets: a_path_that_leaves_the_set_is_refused"]),
    14: (
        "odd and long file names ended runs",
        [
            "names: predict_takes_names_that_are_not_utf8",
            "names: prepare_skips_the_one_file_whose_name_is_not_utf8",
            "names: predict_takes_names_as_long_as_the_file_system_does",
            "names: a_link_to_itself_is_named_and_left_out",
        ],
    ),
    15: ("markup in names acted", ["names: evaluate_and_inspect_take_any_class_and_set_name"]),
    16: (
        "full disks behind SQLite and safetensors were internal errors",
        [
            "disk: prepare_on_a_disk_that_is_too_small_leaves_no_data_set_and_goes_on",
            "disk: a_model_file_on_a_disk_that_is_too_small",
        ],
    ),
    17: (
        "damaged JSON was an internal error",
        [
            "fuzz: b17_any_description_of_a_set_is_read_or_is_one_line",
            "fuzz: b17_any_bytes_in_place_of_a_state_are_one_line",
            "model_files: a_header_text_that_is_no_sound_json",
        ],
    ),
    18: (
        "mistakes in a label map came late",
        ["folders_and_settings: b18_a_label_map_with_a_mistake_is_one_clear_line"],
    ),
    19: (
        "absurd requests and small limits were tracebacks",
        [
            "disk: absurd_requests_and_empty_values_are_wrong_usage",
            "disk: few_file_handles_are_one_line_or_enough",
            "numbers: b19_a_learning_rate_that_breaks_the_training_is_one_line",
        ],
    ),
    20: ("a state's step was believed", ["states: b20_a_state_that_claims_another_step_is_refused"]),
    21: (
        "cut and destroyed videos were taken in silence",
        ["video_files: a_cut_video_is_told", "video_files: most_damage_is_told_and_most_spoilt_frames_are_not_taken"],
    ),
    22: ("control characters reached the terminal", ["names: errors_show_names_as_text"]),
    23: ("a refused archive left a copy", ["folders_and_settings: c23_a_refused_archive_leaves_no_copy"]),
    24: (
        "an unreadable input was told as an unwritable output",
        ["folders_and_settings: c24_a_folder_that_may_not_be_read_is_named_as_that"],
    ),
    25: (
        "a closed reader or terminal ended runs without a state",
        [
            "processes: what_cannot_be_printed_costs_neither_results_nor_status",
            "processes: a_signal_ends_it_and_the_same_command_goes_on",
        ],
    ),
    26: (
        "empty and absurd options, files written over, overflowing models",
        [
            "disk: absurd_requests_and_empty_values_are_wrong_usage",
            "evaluate_faults: what_is_read_is_never_written_over",
            "evaluate_faults: odd_widths_of_a_terminal_still_show_the_scores",
            "numbers: c26_a_model_whose_sums_overflow_is_told_as_that",
            "numbers: c26_a_target_that_is_a_source_and_a_set_of_one_frame_are_warned_of",
            "image_files: floating_point_pixels_are_refused_and_not_turned_black",
        ],
    ),
}

GROUPS = (
    "model_files", "states", "prepared_sets", "image_files", "video_files", "archives", "names",
    "folders_and_settings", "disk", "processes",
)  # fmt: skip


def defined(module):
    """Names of the tests of a module."""
    tree = ast.parse((HERE / f"test_{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("number", BEHAVIOURS)
def test_every_behaviour_has_tests_that_exist(number):
    assert set(BEHAVIOURS) == set(range(1, 27))
    for test in BEHAVIOURS[number][1]:
        module, name = test.split(": ")
        assert f"test_{name}" in defined(module), test


def test_every_promise_names_tests_that_exist():
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    for module, names in re.findall(r"<!-- test_(\w+): ([\w ]+) -->", page):
        missing = set(names.split()) - defined(module)
        assert not missing, f"{module}: {missing}"
    blocks = [block for block in re.split(r"\n\n+", page.partition("\n## ")[2]) if not block.startswith(("#", "|"))]
    bare = [block for block in blocks[:-1] if "<!-- test_" not in block and not block.startswith("Errors")]
    assert bare == []


def test_every_kind_of_fault_has_at_least_25_cases(request):
    cases = collections.Counter(Path(item.fspath).stem.removeprefix("test_") for item in request.session.items)
    if not all(cases[group] for group in GROUPS):
        pytest.skip("counts where all of them run")
    assert {group: cases[group] for group in GROUPS if cases[group] < 25} == {}
