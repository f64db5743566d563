"""What a run will need and how fast it will be, by arithmetic alone, before anything is started."""
