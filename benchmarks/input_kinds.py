"""The table of docs/bring_your_own.md: every kind of input, the words that bring it, and the test that does.

    python benchmarks/input_kinds.py            prints the table
    python benchmarks/input_kinds.py --write    puts it into docs/bring_your_own.md

A row without an existing test is an error: nothing here is a promise only.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "bring_your_own.md"
BEGIN, END = "<!-- table: benchmarks/input_kinds.py -->", "<!-- end of table -->"

INERT = "tests/exporter/checkpoints/test_inert_checkpoint.py"
CHECKPOINT = "tests/exporter/checkpoints/test_checkpoint.py"
HEAD = "tests/exporter/checkpoints/test_replaced_head.py"
PARTS = "tests/exporter/checkpoints/test_computed_weights.py"
PLAIN = "tests/exporter/networks/test_plain_module.py"
AUTO = "tests/exporter/recognition/test_auto_source.py"
CONFIG = "tests/exporter/preprocessing/test_config_files.py"
INPUTS = "tests/exporter/models/test_network_inputs.py"
PROGRAMS = "tests/exporter/models/test_programs.py"
FEATURES = "tests/exporter/checkpoints/test_missing_head.py"
VERIFY = "tests/resnet_export/verify_job/test_command.py"
GATHER = "tests/resnet_export/images/test_gather.py"
COPIES = "tests/calibration/observers/test_sample_images.py"

ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("`state_dict` in .pth, .pt, .bin, .ckpt, .tar, .safetensors", "`resnet18 --weights FILE`", CHECKPOINT, "test_every_format_gives_the_same_weights"),
    ("wrapped: `model`, `state_dict`, `module`, `model_ema`, ...", "`resnet18 --weights FILE`", CHECKPOINT, "test_wrapper_is_opened_and_noted"),
    ("argparse.Namespace, NumPy scalars, paths, dates, any configuration class beside the weights", "`resnet18 --weights FILE`", INERT, "test_what_scripts_store_beside_the_weights"),
    ("optimizer and scheduler state beside the weights", "`resnet18 --weights FILE`", INERT, "test_all_of_it_at_once_with_an_optimizer"),
    ("such a file as PyTorch before 1.6 wrote it, not zipped", "`resnet18 --weights FILE`", INERT, "test_values_that_come_out"),
    ("OmegaConf's nodes, without OmegaConf", "`resnet18 --weights FILE`", INERT, "test_modules_that_are_not_installed_and_are_never_imported"),
    ("timm's CheckpointSaver, with its preprocessing", "`auto --weights model_best.pth.tar`", CONFIG, "test_timms_saver_is_followed_as_timm_resolves_its_arguments"),
    ("torchvision's reference script, with its preprocessing", "`auto --weights checkpoint.pth`", CONFIG, "test_torchvisions_reference_script_is_followed_to_the_bit"),
    ("Lightning: `model.` before the names, losses and metrics beside", "`resnet18 --weights last.ckpt`", HEAD, "test_the_network_is_found_among_other_tensors"),
    ("two networks in one file", "`... --checkpoint-key ema_model`", HEAD, "test_of_two_networks_the_usual_one_is_taken_the_other_told_and_had_by_its_key"),
    ("averaged weights, a teacher", "`... --checkpoint-key state_dict_ema`, `ema.module`, `teacher`", HEAD, "test_checkpoint_key"),
    ("DataParallel's and `torch.compile`'s prefixes", "`resnet18 --weights FILE`", CHECKPOINT, "test_prefixes_of_several_wrappers_are_cut"),
    ("weights in parts: pruned (`weight_orig`, `weight_mask`), `weight_norm`, `spectral_norm`, `parametrizations`", "`resnet18 --weights FILE`", PARTS, "test_a_checkpoint_in_parts_answers_as_the_module"),
    ("a module with such weights", "`rx.export(module, ...)`, `my.nets:build`", PLAIN, "test_weights_that_are_computed_become_weights"),
    ("a module inside `torch.compile`, DataParallel, AveragedModel", "`rx.export(module, ...)`, `my.nets:build`", PLAIN, "test_wrappers_are_taken_off"),
    ("a file that would run code", "refused by name, never run", INERT, "test_a_bomb_in_the_arguments_is_refused_and_does_not_go_off"),
    ("a whole pickled module", "refused: save its `state_dict()`", INERT, "test_a_whole_module_is_refused_by_name"),
    ("TorchScript or `.pt2` as MODEL", "refused with the line that converts it", PROGRAMS, "test_as_model_the_refusal_says_how_to_convert_and_that_converts"),
    ("TorchScript or `.pt2` as weights", "refused with the line that takes them out", PROGRAMS, "test_as_weights_the_refusal_says_how_to_take_them_out_and_that_does"),
    ("classifier `Sequential(Dropout, Linear)`", "`resnet18 --weights FILE`", HEAD, "test_one_linear_somewhere_in_fc"),
    ("classifier called `classifier`, `head`, `last_linear`", "`resnet18 --weights FILE`", HEAD, "test_another_name_for_fc"),
    ("backbone and head side by side", "`resnet18 --weights FILE`", HEAD, "test_a_head_beside_a_backbone_as_in_a_lightning_module"),
    ("classifier of several Linears, BatchNorm between", "`... --head-activation relu`", HEAD, "test_several_linears_with_the_activation_that_was_said"),
    ("no classifier (Identity): features", "`resnet18 --weights FILE`, warned", HEAD, "test_no_head_gives_features_and_says_so"),
    ("your own module or an ONNX file without a classifier: features", "`my.nets:build`, `model.onnx`, warned; `classify` refused", FEATURES, "test_what_comes_out_is_features"),
    ("architecture unknown", "`auto --weights FILE`", AUTO, "test_every_model_is_found_by_its_names_and_shapes_alone"),
    ("architecture that weights cannot tell (blur pool)", "`auto --weights FILE`, warned", AUTO, "test_a_blur_pool_network_is_not_taken_for_the_plain_one_in_silence"),
    ("the same, with validation images", "`auto --weights FILE --val val/`", AUTO, "test_measured_on_images_the_most_accurate_is_taken_and_of_equals_the_plainest"),
    ("timm's `config.json` beside the weights", "`auto --weights model.safetensors`", AUTO, "test_timms_config_beside_the_weights_names_the_model"),
    ("Hugging Face's `preprocessor_config.json` beside the weights", "`resnet50 --weights model.safetensors`", CONFIG, "test_hugging_faces_image_processors"),
    ("class names of a `config.json`", "`resnet50 --weights model.safetensors`", CONFIG, "test_labels_of_both_kinds_of_configuration"),
    ("our own ONNX file, with its preprocessing and labels", "`model.onnx`", CONFIG, "test_our_own_onnx_files_say_it_themselves"),
    ("1, 4 or more channels", "`resnet18 --weights FILE --mean 0.5 --std 0.25`", INPUTS, "test_a_file_of_other_channels_loads_into_a_named_model"),
    ("grey pictures", "`... --mean 0.5 --std 0.25`", INPUTS, "test_grey_levels_are_pillows"),
    ("a rectangular input", "`... --input-size 96x192`", INPUTS, "test_a_rectangular_input_keeps_the_usual_share"),
    ("trained on BGR, or on 0..255", "`... --color-order BGR --scale 1 --mean 104,117,124 --std 1,1,1`", INPUTS, "test_networks_of_other_orders_and_scales_answer_as_in_training"),
    ("ONNX of opset 7 to the newest, NHWC (Keras, TensorFlow)", "`model.onnx --resize 224x224`", INPUTS, "test_older_files_and_nhwc_answer_as_the_file_itself"),
    ("ONNX of BGR and 0..255", "`model.onnx --color-order BGR --scale 1 ...`", INPUTS, "test_bgr_and_0_255_of_an_onnx_file"),
    ("ONNX with several outputs", "`model.onnx --outputs A,B`", INPUTS, "test_several_outputs_of_an_onnx_file"),
    ("a module that gives a dict or tuple; segmentation; FPN", "`my.nets:build --outputs out`", INPUTS, "test_segmentation_dicts_and_pyramids"),
    ("torchvision's DeepLabV3 and FCN", "`my.nets:build --outputs out`", INPUTS, "test_torchvisions_deeplab"),
    ("one logits tensor of a dict", "`my.nets:build --outputs logits`", INPUTS, "test_one_logits_tensor_of_a_dict_keeps_its_top1"),
    ("features of a module whose output is a dict", "`my.nets:build --features layer4`", INPUTS, "test_features_of_a_module_whose_output_is_a_dict"),
    ("two inputs, a video", "refused in a sentence, exit 2", INPUTS, "test_what_is_refused_in_a_sentence"),
    ("a module that is quantized already", "refused: give the float32 model", INPUTS, "test_a_network_that_is_quantized_already_is_refused"),
    ("several folders, globs", "`--calib a/ --calib 'b/*/train'`", GATHER, "test_several_folders_and_globs"),
    ("a list of paths, with labels", "`--val list.txt`", GATHER, "test_a_list_with_labels"),
    ("a CSV with a header", "`--val list.csv`", GATHER, "test_a_csv_with_a_header"),
    ("ImageNet's flat folder and label file", "`--val val/ --val-labels val.txt`", GATHER, "test_imagenets_own_layout_a_flat_folder_and_a_file_of_labels"),
    ("labels by synset id", "`--val val/ --val-labels LOC_val_solution.csv`", GATHER, "test_labels_by_synset_id"),
    ("folders named by class index", "`--val val/`", GATHER, "test_folders_named_by_class_index"),
    ("a folder without labels", "`--val photos/`: agreement and SQNR", GATHER, "test_a_list_without_labels_and_names_with_spaces"),
    ("a tar of class folders", "`--calib train.tar.gz`", GATHER, "test_a_tar_of_class_folders_and_one_without"),
    ("a WebDataset shard", "`--val 'shard-*.tar'`", GATHER, "test_a_webdataset_shard"),
    (".npy and .npz arrays", "`--val val.npz`", GATHER, "test_arrays_with_labels"),
    ("Hugging Face's `save_to_disk`", "`--val dataset/validation`", GATHER, "test_a_dataset_that_hugging_face_saved"),
    ("Parquet", "`--val val-00000.parquet`", GATHER, "test_parquet"),
    ("any of these for an existing bundle", "`verify BUNDLE --val ...`", VERIFY, "test_every_kind_of_source_is_measured_as_the_folder"),
    ("copies between calibration and validation", "left out, with a count", COPIES, "test_a_copy_under_another_name"),
)  # fmt: skip


def table() -> str:
    """Return the rows as Markdown.

    Raises:
        SystemExit: Naming a row whose test does not exist.
    """
    lines = ["| you have | you give | done by the test |", "|---|---|---|"]
    for kind, words, file, test in ROWS:
        if test not in names_of_tests(ROOT / file):
            raise SystemExit(f"{kind}: there is no test {test} in {file}")
        lines.append(f"| {kind} | {words} | `{file}`: `{test}` |")
    return "\n".join(lines)


def names_of_tests(path: Path) -> set[str]:
    """Return the names of the tests in a file, those in classes too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def page_with(text: str, rows: str) -> str:
    """Return the page with `rows` between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"


def main() -> int:
    """Print the table, or write it into the page."""
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
    else:
        print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
