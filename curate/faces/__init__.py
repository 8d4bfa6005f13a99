"""The face models alone: decoding, detection, landmarks, recognition, crop templates, measures. Imports nothing of ours."""
