"""PACK: packs a set of pictures into tar shards."""
