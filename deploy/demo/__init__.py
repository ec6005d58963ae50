"""The main job from beginning to end on this machine: pictures in, a model out, pictures classified."""
