"""Videos with sound that tests write, and the packets of sound in a file."""

from fractions import Fraction

import av
import numpy as np

RATE = 48000


def write_with_sound(
    path, audio_codec="aac", seconds=2.0, video_codec="libx264", fps=25, times=None, delay=0.0
):
    """Write a moving picture of 48 x 32 with tones. `times`: of the frames, in seconds; `delay`:
    by how many seconds the sound starts later."""
    times = [Fraction(n, fps) for n in range(round(seconds * fps))] if times is None else times
    unit = Fraction(1, fps) if str(path).endswith(".avi") else Fraction(1, 12800)
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=fps)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.codec_context.time_base = unit
        audio = container.add_stream(audio_codec, rate=RATE, layout="stereo")
        for number, time in enumerate(times):
            image = np.full((32, 48, 3), 40 + 5 * number % 200, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / unit), unit
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        resampler = av.AudioResampler(audio.format.name, "stereo", RATE, audio.frame_size or 1024)
        for frame in resampler.resample(_tones(seconds, delay)):
            container.mux(audio.encode(frame))
        for frame in resampler.resample(None):
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def _tones(seconds, delay):
    t = np.arange(round(seconds * RATE)) / RATE
    waves = np.stack([np.sin(2000 * t), np.sin(3000 * t)]).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(0.5 * waves, "fltp", "stereo")
    frame.rate = RATE
    frame.time_base = Fraction(1, RATE)
    frame.pts = round(delay * RATE)
    return frame


def packets_of_sound(path):
    """(bytes, seconds from the start of the file) of each packet, in order."""
    with av.open(str(path)) as container:
        start = Fraction(container.start_time or 0, av.time_base)
        return [
            (bytes(packet), float(packet.pts * packet.time_base - start))
            for packet in container.demux(*container.streams.audio)
            if packet.size
        ]
