"""Decode a latent file to a video."""

from mg.cli.command import counted, parse, settings_parser
from mg.inference.settings import Decoding


def command(args: list[str] | None) -> None:
    parser = settings_parser(
        Decoding,
        "Decode a latent file that mg encode wrote to a video of the size, frame count "
        "and times of the original. Scaled and raw latents are told apart by the file.",
        source="Latent file, *.safetensors.",
        target="Video or image to write; its suffix chooses the format.",
    )
    settings = parse(parser, Decoding, args)
    from mg.inference.decode import decode

    video = decode(settings)
    print(
        f"Wrote {settings.target}: {counted(video.frames, 'frame')} of "
        f"{video.width}x{video.height} pixels, {float(video.fps):g} frames/s"
    )
