"""Time stretch, pitch shift, resampling, mel features and coloured noise, of many signals at a time.

Signals come and go as `records.Signals`, on the host or on a CUDA device; of any lengths, each with parameters of its
own. Every channel is a row. Rows go by in chunks: all frames of a chunk's rows are cut out natively, transformed in one
batch by torch (MKL, cuFFT), worked on natively, transformed back, overlapped and added. On the host a chunk stays in
a core's cache, and every thread works on chunks of its own, with MKL in one thread: at n_fft 512 a transform in a batch
takes 0.45 µs of a core so, and 0.7 where MKL shares out each batch over two threads. What comes out is the same bit for
bit whatever else is in the batch, in however many chunks and threads.
"""

from dalipipe.spectral.features import Log, MelScale, Norm, mel_spectrogram, mfcc
from dalipipe.spectral.noise import coloured_noise
from dalipipe.spectral.resampling import resample
from dalipipe.spectral.vocoder import pitch_shift, stretch

__all__ = ["Log", "MelScale", "Norm", "coloured_noise", "mel_spectrogram", "mfcc", "pitch_shift", "resample", "stretch"]
