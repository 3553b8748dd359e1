"""Other people's frozen networks that compare images, as losses and scores."""
