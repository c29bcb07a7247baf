"""Reconstruct videos by a TAE and measure PSNR and SSIM."""

from pathlib import Path

from mg.cli.command import SOME_FAILED, parse, settings_parser
from mg.evaluation.settings import Evaluation


def command(args: list[str] | None) -> int:
    parser = settings_parser(Evaluation, "Reconstruct videos by a TAE and measure PSNR and SSIM.")
    evaluation = parse(parser, Evaluation, args)
    from mg import ranks
    from mg.evaluation.evaluate import evaluate
    from mg.evaluation.report import PAGE_NAME

    summary = evaluate(evaluation)
    if not ranks.is_first():
        return 0
    lpips = "" if summary["lpips"] is None else f", LPIPS {summary['lpips']:.4f}"
    print(
        f"PSNR {summary['psnr']:.2f} dB, SSIM {summary['ssim']:.4f}{lpips}: "
        f"means over {summary['videos']} videos, {summary['failed']} failed. "
        f"Videos and metrics: {evaluation.output_path}"
    )
    if evaluation.report:
        print(f"To look at: {Path(evaluation.output_path) / PAGE_NAME}")
    return SOME_FAILED if summary["failed"] else 0
