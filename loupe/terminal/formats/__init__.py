"""The formats in which other tools keep annotated pictures: a module for each, with its reader and its writer.

`sources` finds out in which format a path is and reads it, `targets` has the writer of each. All readers look for
pictures by `picture_index`, parse by `documents`, and collect what is wrong in `mistakes`.
"""
