"""What the pages of the coordinator and of a site share: layout, charts, translation, the headers that protect them."""
