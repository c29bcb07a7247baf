"""Encode one video to a latent file."""

from mg.cli.command import counted, parse, settings_parser
from mg.inference.settings import FileEncoding


def command(args: list[str] | None) -> None:
    parser = settings_parser(
        FileEncoding,
        "Encode a video or an image to a latent file, a .safetensors that also holds "
        "all that decoding takes: the TAE's config, whether the latents are scaled, and the "
        "video's size, frame count and times.",
        source="Video or image.",
        target="Latent file to write, *.safetensors.",
    )
    settings = parse(parser, FileEncoding, args)
    from mg.inference.encode import encode

    video = encode(settings)
    kind = f"{'scaled' if settings.scaled else 'raw'} {'sample' if settings.sample else 'mean'}"
    print(
        f"Wrote {settings.target}: {kind} latents of {counted(video.frames, 'frame')} of "
        f"{video.width}x{video.height} pixels, {float(video.fps):g} frames/s"
        f"{'' if video.times is None else ' on average'}"
    )
