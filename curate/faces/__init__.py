"""The face models alone: decode, detect, landmarks, recognize, crop templates, measures. Imports nothing of ours."""
