"""storage: projects, pictures, data sets, algorithm images, models; everything that lasts and is large."""
