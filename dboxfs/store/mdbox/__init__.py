"""multi-dbox: many messages in each ``storage/m.<file_id>``, found through the map (mdbox-map)."""
