"""What happens to a sound between a mouth and a file: one file an effect.

They are written here, on numpy, soxr and libsndfile, which are there anyway. Audiomentations 0.43 would bring
108 MB (librosa, numba, scipy, scikit-learn), asks for soxr below 1.0, draws from the global generators of
Python and numpy, and takes the level of speech with its pauses, so that its SNR is off by their share.
Pyroomacoustics simulates rooms by their geometry, which needs scipy and a compiled extension; what is asked
for here is a reverberation time. Of both nothing would be left to use but a few lines each.
"""
