"""Schedules: when they fire next by the clock on the wall, and what each fire comes to.

Each knows what is left of it:

    wall_clock  <  fire_times  <  schedules  <  timetable
"""
