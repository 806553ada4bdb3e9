"""What a configuration will need and how fast it can be, before anything is rented: see `launch.plan`."""
