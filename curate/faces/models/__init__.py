"""The face models: dlib's, and InsightFace packs with the detector SCRFD and an ArcFace recognizer."""
