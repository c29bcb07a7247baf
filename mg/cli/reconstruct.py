"""Reconstruct one video by a TAE."""

from mg.cli.command import counted, parse, settings_parser
from mg.inference.settings import Reconstruction


def command(args: list[str] | None) -> None:
    parser = settings_parser(
        Reconstruction,
        "Reconstruct a video or an image by a TAE, from its posterior's mean. Frames "
        "keep their number, size and times, sound is copied. Prints PSNR and SSIM, means over "
        "frames.",
        source="Video or image.",
        target="Video or image to write; its suffix chooses the format.",
    )
    settings = parse(parser, Reconstruction, args)
    from mg.inference.reconstruct import reconstruct

    scores = reconstruct(settings)
    measured = ""
    if scores.psnr is not None and scores.ssim is not None:
        measured = f", PSNR {scores.psnr.mean():.2f} dB, SSIM {scores.ssim.mean():.4f}"
    print(f"Wrote {settings.target}: {counted(scores.frames, 'frame')}{measured}")
    if settings.report is not None:
        print(f"To look at: {settings.report}")
