"""From the files of a study to one self-contained page."""
