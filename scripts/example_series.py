#!/usr/bin/env python3
"""Writes data/heat_demand.csv: what heats two made-up buildings, hour by hour, for experiments/own_data.toml.

Nothing in it was measured. The demand follows the temperature of the last day, the hour and the weekday;
some values are missing. The same bytes each time.

    scripts/example_series.py > data/heat_demand.csv
"""

import datetime
import math
import random

HOURS = 1000
BEGIN = datetime.datetime(2024, 1, 8)
# Name, kilowatts at all times, kilowatts for each degree, share that stays at night.
BUILDINGS = [("school", 20.0, 6.0, 0.5), ("hall", 35.0, 3.5, 0.8)]


def main() -> None:
    draw = random.Random(2024)
    print("time,building,temperature,wind,demand")
    weather = []
    front, wind = 0.0, 3.0
    for hour in range(HOURS):
        front = 0.99 * front + 0.6 * draw.gauss(0, 1)
        wind = max(0.0, 3.0 + 0.95 * (wind - 3.0) + 0.5 * draw.gauss(0, 1))
        daily = 3.0 * math.sin(2 * math.pi * (hour - 9) / 24)
        weather.append((4.0 + front + daily, wind))
    # Walls are warm for about a day.
    felt = [weather[0][0]] * len(BUILDINGS)
    rest = [0.0] * len(BUILDINGS)
    for hour, (temperature, wind) in enumerate(weather):
        time = BEGIN + datetime.timedelta(hours=hour)
        for index, (name, base, slope, night) in enumerate(BUILDINGS):
            felt[index] += (temperature - 0.3 * wind - felt[index]) / 18
            rest[index] = 0.7 * rest[index] + 2.0 * draw.gauss(0, 1)
            used = time.weekday() < 5 and 6 <= time.hour < 18
            heat = slope * max(0.0, 16.0 - felt[index]) * (1.0 if used else night)
            demand = f"{base + heat + rest[index]:.1f}"
            if draw.random() < 0.02:
                demand = ""
            # The thermometer was out for half a day.
            shown = "" if 300 <= hour < 312 else f"{temperature:.1f}"
            print(f"{time:%Y-%m-%d %H:%M},{name},{shown},{wind:.1f},{demand}")


if __name__ == "__main__":
    main()
